"""Redis runs full under load, on real processes: nothing is lost or doubled, nobody exits, and room lets all go on."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from schemas.context import Operator
from schemas.delivery import State
from schemas.tenant import Limits
from tests.conftest import REAL
from tests.support.fleet import Fleet, fleet
from tests.support.redis_server import RedisServer
from tests.support.town import all_final
from tests.support.waiting import until
from workers.broker.client import close, connect
from workers.bus.client import TenantClient
from workers.directory.tenants import Tenants
from workers.errors import OverloadedError

pytestmark = pytest.mark.processes

AGENTS = ("acme-researcher", "acme-writer", "acme-editor", "acme-support")
FULL_SECONDS = 6.0


@pytest.fixture(params=list(REAL))
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    server = RedisServer(REAL[request.param], append_only=False).start()
    with fleet(server, tmp_path) as started:
        started.start_letta()
        started.start_all()
        yield started
    server.stop()


@pytest.fixture
async def acme(running: Fleet) -> AsyncIterator[TenantClient]:
    client = connect(running.server.url)
    await Tenants(client).create(Operator("test"), "acme", Limits(), now_ms=1)
    await close(client)
    async with TenantClient.open(running.server.url, tenant="acme") as opened:
        yield opened


async def test_a_full_redis_refuses_clearly_finishes_what_runs_and_goes_on_when_there_is_room(
    running: Fleet, acme: TenantClient
) -> None:
    """HAZARDS.md A13, S14: filled to the last byte by another's data, while turns run and messages wait."""
    client = connect(running.server.url)
    ids = [(await acme.send(AGENTS[n % 4], "[[delay 1.5]] [[say ok]]")).message_id for n in range(12)]
    await until(lambda: len(running.turns()) >= len(AGENTS), within=60)
    used = int((await client.info("memory"))["used_memory"])
    await client.set("another's", b"x" * 8_000_000)
    await client.config_set("maxmemory", used)
    with pytest.raises(OverloadedError):
        await acme.send(AGENTS[0], "no room")
    first = await all_final(acme, ids[: len(AGENTS)], within=FULL_SECONDS)
    await asyncio.sleep(FULL_SECONDS)
    begun = len(running.turns())
    await client.delete("another's")
    await client.config_set("maxmemory", 0)
    await until(lambda: len(running.turns()) > begun, within=10)
    receipts = await all_final(acme, ids, within=60)
    await close(client)

    assert {receipt.state for receipt in (*first, *receipts)} == {State.DELIVERED}
    assert begun < len(ids)
    assert len(running.turns()) == len(ids)
    assert all(running.is_running(name) for name in running.processes)
