"""POSTROOM_WAIT_REPLICAS: accepted means that a replica has it, too (docs/decisions/0016)."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from schemas.delivery import State
from tests.conftest import REAL
from tests.support.builders import resources
from tests.support.ledger import Ledger, agent_id
from tests.support.redis_server import RedisServer
from tests.support.time import CLOCK_LUA, ScriptTime
from tests.support.waiting import until
from workers.broker.client import Client, close, connect
from workers.broker.rules import Wait
from workers.broker.scripts import Scripts
from workers.bus.client import TenantClient
from workers.errors import NotAcceptedError

pytestmark = pytest.mark.skipif(not REAL, reason="no real Redis found")


@pytest.fixture(params=list(REAL))
def master(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    server = RedisServer(REAL[request.param], extra=("--repl-diskless-sync-delay", "0")).start()
    yield server
    server.stop()


@pytest.fixture
async def client(master: RedisServer) -> AsyncIterator[Client]:
    opened = connect(master.url)
    yield opened
    await close(opened)


@pytest.fixture
async def replica(master: RedisServer, client: Client) -> AsyncIterator[RedisServer]:
    """One that has all there is."""
    server = RedisServer(master.binary, extra=("--replicaof", "127.0.0.1", str(master.port))).start()
    await client.set("postroom:test:here", 1)
    await until(lambda: client.execute_command("WAIT", 1, 100), within=20)
    await client.delete("postroom:test:here")
    yield server
    server.stop()


@pytest.fixture
async def waiting(client: Client) -> Ledger:
    """A ledger whose scripts wait for one replica, for 200 ms."""
    time_ = ScriptTime(client)
    await time_.start()
    ledger = Ledger(client, time_)
    await ledger.register()
    ledger.scripts = Scripts(client, ledger.rules, wait=Wait(1, 200), clock_lua=CLOCK_LUA)
    return ledger


@pytest.fixture
async def acme(waiting: Ledger) -> AsyncIterator[TenantClient]:
    parts = resources(waiting.client, scripts=waiting.scripts)
    one = TenantClient(waiting.context, parts)
    yield one
    await one.close()


async def test_accepted_means_that_the_replica_has_it(
    acme: TenantClient, waiting: Ledger, replica: RedisServer
) -> None:
    for number in range(20):
        receipt = await acme.send("researcher", "hello", id=f"m{number}")
        other = connect(replica.url)
        try:
            assert receipt.state is State.ACCEPTED
            assert await other.exists(waiting.keys.message(f"m{number}"))
        finally:
            await close(other)


async def test_what_a_replica_does_not_confirm_is_not_accepted_and_the_same_id_waits_again(
    acme: TenantClient, waiting: Ledger, replica: RedisServer
) -> None:
    """FAULTS.md F11. It is on the master's stream, and may yet be lost: the producer publishes it again."""
    replica.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(NotAcceptedError, match=r"not confirmed by enough replicas.*again under the same id"):
            await acme.send("researcher", "hello", id="m1")
        assert time.monotonic() - began < 5.5
    finally:
        replica.signal(signal.SIGCONT)
    again = await acme.send("researcher", "hello", id="m1")

    assert (again.state, again.duplicate) == (State.ACCEPTED, True)
    assert await waiting.client.xlen(waiting.keys.tasks) == 1


async def test_without_a_replica_nothing_is_accepted(acme: TenantClient) -> None:
    with pytest.raises(NotAcceptedError, match="POSTROOM_WAIT_REPLICAS"):
        await acme.send("researcher", "hello")


async def test_it_is_accepted_when_scripts_were_flushed(
    acme: TenantClient, waiting: Ledger, replica: RedisServer
) -> None:
    await waiting.client.script_flush()

    assert (await acme.send("researcher", "hello", id="m1")).state is State.ACCEPTED
    assert await waiting.client.xlen(waiting.keys.tasks) == 1


async def test_what_was_accepted_goes_on_without_its_replica(waiting: Ledger, replica: RedisServer) -> None:
    """Takes and settlements wait for it, so that a failover knows of them, but not for ever."""
    await waiting.send("m1", agent_id(1))
    await waiting.send("m2", agent_id(2))
    well = await waiting.take(1)
    replica.signal(signal.SIGSTOP)
    try:
        alone = await waiting.take(1)
        results = [await waiting.settle(one) for one in (*well.taken, *alone.taken)]
    finally:
        replica.signal(signal.SIGCONT)

    assert (well.confirmed, alone.confirmed) == (True, False)
    assert results == ["settled", "settled"]


async def test_nobody_waits_unless_asked_to(waiting: Ledger, replica: RedisServer) -> None:
    waiting.scripts = Scripts(waiting.client, waiting.rules, clock_lua=CLOCK_LUA)
    replica.signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(2):
            assert await waiting.publish("m1") == "accepted"
    finally:
        replica.signal(signal.SIGCONT)


async def test_a_token_is_never_given_twice_though_the_count_of_them_is_lost(waiting: Ledger) -> None:
    """As by a failover: the worker that took before it must not pass for the one that takes after it."""
    await waiting.send("m1", agent_id(1))
    (before,) = (await waiting.take()).taken
    await waiting.time.advance(seconds=20)
    await waiting.client.hdel(waiting.keys.counters, "fence")
    (after,) = (await waiting.take()).taken

    assert after.id == before.id
    assert after.token > before.token
