"""A Redis that is slow, not gone: a publish fails or waits 5 s at most, and goes on as soon as Redis does."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from schemas.context import Context
from schemas.delivery import State
from tests.conftest import REAL
from tests.support.builders import resources
from tests.support.redis_server import RedisServer
from tests.support.waiting import until
from workers.broker.client import close, connect
from workers.bus.client import TenantClient
from workers.errors import NotAcceptedError

pytestmark = pytest.mark.skipif(not REAL, reason="no real Redis found")


@pytest.fixture(params=list(REAL))
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    started = RedisServer(REAL[request.param], append_only=False).start()
    yield started
    started.stop()


@asynccontextmanager
async def acme_at(url: str) -> AsyncIterator[TenantClient]:
    client = connect(url)
    one = TenantClient(Context(tenant="acme", principal="tester"), resources(client))
    try:
        yield one
    finally:
        await one.close()
        await close(client)


@pytest.fixture
async def acme(server: RedisServer) -> AsyncIterator[TenantClient]:
    async with acme_at(server.url) as one:
        await one._resources.client.hset("postroom:{acme}:tenant", mapping={"max_bytes": 10**9, "suspended": 0})
        yield one


@asynccontextmanager
async def slowed(port: int, seconds: float) -> AsyncIterator[str]:
    """The URL of a proxy that keeps each reply back for so long."""
    tasks: set[asyncio.Task[None]] = set()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, pause: float) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                await asyncio.sleep(pause)
                sink.write(data)
        sink.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", port)
        for work in (pump(reader, behind_writer, 0), pump(behind_reader, writer, seconds)):
            tasks.add(asyncio.create_task(work))

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0"
    finally:
        listening.close()
        await asyncio.wait(tasks, timeout=5)


async def test_a_redis_that_is_paused_is_not_accepted_within_5_s_and_goes_on_when_it_does(acme: TenantClient) -> None:
    """FAULTS.md F09: CLIENT PAUSE for 10 s, and a producer that asks again and again, under its id."""
    await acme.send("researcher", "warm")
    await acme._resources.client.execute_command("CLIENT", "PAUSE", 10_000)
    over_at = time.monotonic() + 10
    refused, receipt = 0, None
    while receipt is None:
        began = time.monotonic()
        try:
            receipt = await acme.send("researcher", "hello", id="m1")
        except NotAcceptedError as error:
            assert "under the same id" in str(error)
            refused += 1
        finally:
            assert time.monotonic() - began < 5.5

    assert receipt.state is State.ACCEPTED
    assert refused >= 1
    assert time.monotonic() - over_at < 5
    assert await acme._resources.client.xlen("postroom:{acme}:tasks") == 2


async def test_replies_that_come_late_each_add_up_to_5_s_at_most(server: RedisServer, acme: TenantClient) -> None:
    """Each below its own timeout; all together they would be 10 s and more."""
    async with slowed(server.port, 3.0) as url, acme_at(url) as far:
        began = time.monotonic()
        with pytest.raises(NotAcceptedError, match="within 5 s"):
            await far.send("researcher", "hello", id="m1")
        assert time.monotonic() - began < 5.5
    await acme.send("researcher", "hello", id="m1")

    assert await acme._resources.client.xlen("postroom:{acme}:tasks") == 1


async def test_a_redis_that_is_a_little_slow_accepts(server: RedisServer, acme: TenantClient) -> None:
    async with slowed(server.port, 0.2) as url, acme_at(url) as far:
        assert (await far.send("researcher", "hello", id="m1")).state is State.ACCEPTED
    stream = "postroom:{acme}:tasks"
    await until(lambda: acme._resources.client.xlen(stream))
