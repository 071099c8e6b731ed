"""The same path through real processes, and what becomes of messages when one of them dies."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis

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

pytestmark = pytest.mark.processes

AGENTS = ("acme-researcher", "acme-writer", "acme-editor", "acme-support")


@pytest.fixture
def durable() -> Iterator[RedisServer]:
    """A Redis of this test's own, with AOF, to be killed."""
    server = RedisServer(next(iter(REAL.values()))).start()
    yield server
    server.stop()


@pytest.fixture
def running(durable: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    with fleet(durable, tmp_path, POSTROOM_ACCEPT_LOSS="false") as started:
        started.start_letta()
        started.start_all()
        yield started


@pytest.fixture
async def acme(running: Fleet) -> AsyncIterator[TenantClient]:
    client = connect(running.server.url)
    await Tenants(client).create(Operator("test"), "acme", Limits(), now_ms=1)
    await close(client)
    async with TenantClient.open(running.server.url, tenant="acme") as opened:
        yield opened


async def send_many(acme: TenantClient, count: int, text: str) -> list[str]:
    return [(await acme.send(AGENTS[n % len(AGENTS)], f"{text} {n}")).message_id for n in range(count)]


async def test_a_message_goes_through_every_process(running: Fleet, acme: TenantClient) -> None:
    receipt = await acme.ask("acme-support", "[[say through]]", within=20)

    assert receipt.reply == "through"
    assert len(running.turns()) == 1


async def test_work_of_a_killed_worker_is_in_flight_again_and_no_turn_is_doubled(
    running: Fleet, acme: TenantClient
) -> None:
    """kill -9 in mid-turn: the next worker joins the running turn under its otid (FAULTS.md F01)."""
    ids = await send_many(acme, 8, "[[delay 2]] [[say ok]]")
    await until(lambda: len(running.turns()) >= len(AGENTS), within=60)
    running.kill("pool")
    running.start("pool", "serve", "pool", "express", "standard", "bulk")
    receipts = await all_final(acme, ids, within=40)

    assert {receipt.state for receipt in receipts} == {State.DELIVERED}
    assert len(running.turns()) == len(ids)


async def test_redis_may_die_and_come_back_and_no_process_exits(running: Fleet, acme: TenantClient) -> None:
    """kill -9 of Redis with AOF under load: nothing accepted is lost, nothing doubled (FAULTS.md F06)."""
    ids = await send_many(acme, 20, "[[delay 0.1]] [[say ok]]")
    # everysec may lose the last second; what is asked here is that what was written goes on.
    await asyncio.to_thread(until_fsynced, running.server)
    running.server.kill()
    running.server.start()
    after = await acme.ask("acme-support", "[[say after]]", within=20)
    receipts = await all_final(acme, ids, within=40)

    assert after.reply == "after"
    assert {receipt.state for receipt in receipts} == {State.DELIVERED}
    assert len(running.turns()) == len(ids) + 1
    assert running.is_running("dispatcher")
    assert running.is_running("pool")


async def test_a_stopped_pool_lets_its_turns_finish(running: Fleet, acme: TenantClient) -> None:
    """SIGTERM: no call is repeated, nobody waits for a lease to run out (FAULTS.md F29)."""
    sent = await acme.send("acme-writer", "[[delay 1.5]] [[say finished]]")
    await until(running.turns, within=60)
    code = await asyncio.to_thread(running.kill, "pool", signal.SIGTERM)
    receipt = await acme.wait(sent.message_id, within=1)

    assert code == 0
    assert receipt.reply == "finished"
    assert receipt.deliveries[0].attempts == 1
    assert len(running.turns()) == 1


async def test_services_refuse_a_redis_that_loses_messages(tmp_path: Path) -> None:
    """Without AOF, unless told that loss is acceptable (FAULTS.md F08)."""
    server = RedisServer(next(iter(REAL.values())), append_only=False).start()
    try:
        with fleet(server, tmp_path, POSTROOM_ACCEPT_LOSS="false") as refused:
            process = refused.start("dispatcher", "serve", "dispatcher")
            code = await asyncio.to_thread(process.wait, 20)

            assert code == 78
            assert "appendonly is no" in refused.log("dispatcher")
            assert "POSTROOM_ACCEPT_LOSS" in refused.log("dispatcher")
    finally:
        server.stop()


def until_fsynced(server: RedisServer) -> None:
    """Waits until Redis has written its AOF to disk."""
    with redis.Redis(port=server.port) as client:
        client.execute_command("BGREWRITEAOF")
        while client.info("persistence")["aof_rewrite_in_progress"] or client.info("persistence").get(
            "aof_pending_bio_fsync"
        ):
            pass
