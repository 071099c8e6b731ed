"""One suite over the adapter, on the sandbox in each mode and, with LETTA_BASE_URL set, a real server.

The real server's model has to be shared/real-letta/stub_llm.py: the directives in the messages steer it.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from console.sandbox.server import SandboxServer
from console.sandbox.world import Mode
from tests.contract.adapter.bench import Bench, fresh
from workers.clock import SystemClock
from workers.turn.letta.rest import RestLetta
from workers.turn.letta.transport import connect

REAL_URL = os.environ.get("LETTA_BASE_URL", "")
SANDBOXES = [f"sandbox-{mode.value}" for mode in Mode]


@asynccontextmanager
async def serving(name: str) -> AsyncIterator[Bench]:
    """A bench on a server of that name; the agents made through it go with it."""
    if name == "real":
        async with _bench(name, REAL_URL) as bench:
            yield bench
        return
    async with SandboxServer(Mode(name.removeprefix("sandbox-"))) as sandbox, _bench(name, sandbox.base_url) as bench:
        bench.sandbox = sandbox.world
        yield bench


@asynccontextmanager
async def _bench(name: str, url: str) -> AsyncIterator[Bench]:
    client = connect(url, "a-key-that-nobody-may-see")
    letta = RestLetta(client, SystemClock(), settle_seconds=0.3, page_size=25)
    try:
        bench = Bench(name, url, client, letta, await letta.abilities(), fresh("adapter"))
        yield bench
        for agent_id in bench.made:
            await bench.delete(agent_id)
    finally:
        await letta.close()


@pytest.fixture(params=[*SANDBOXES, *(["real"] if REAL_URL else [])])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """Any server: what holds here holds everywhere."""
    async with serving(request.param) as bench:
        yield bench


@pytest.fixture(params=SANDBOXES)
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """A server whose faults can be switched."""
    async with serving(request.param) as bench:
        yield bench


@pytest.fixture(params=["sandbox-joins", *(["real"] if REAL_URL else [])])
async def joining(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """A server that joins."""
    async with serving(request.param) as bench:
        if not bench.abilities.joins:
            pytest.skip(f"{bench.url} does not join: it has no Redis")
        yield bench


@pytest.fixture(params=["sandbox-joins", "sandbox-runs", *(["real"] if REAL_URL else [])])
async def recording(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """A server that lists its runs."""
    async with serving(request.param) as bench:
        yield bench
