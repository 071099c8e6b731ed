"""Faults of the kind that a soak found something with, on real processes. Kept short: a minute in all."""

import asyncio
import json
import signal
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

pytestmark = pytest.mark.processes

AGENTS = ("acme-researcher", "acme-writer", "acme-editor", "acme-support")
POOLS = ("pool-1", "pool-2")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Fleet]:
    server = RedisServer(next(iter(REAL.values()))).start()
    with fleet(server, tmp_path) as started:
        started.start_letta()
        started.start("dispatcher", "serve", "dispatcher")
        for name in POOLS:
            started.start(name, "serve", "pool", "express", "standard", "bulk")
        yield started
    server.stop()


@pytest.fixture
async def acme(running: Fleet) -> AsyncIterator[TenantClient]:
    client = connect(running.server.url)
    await Tenants(client).create(Operator("test"), "acme", Limits(), now_ms=1)
    await close(client)
    async with TenantClient.open(running.server.url, tenant="acme") as opened:
        yield opened


def errors(running: Fleet) -> list[str]:
    """What the services logged as errors."""
    logged = [line for name in ("dispatcher", *POOLS) for line in running.log(name).splitlines()]
    documents = [json.loads(line) for line in logged if line.startswith("{")]
    return [document["event"] for document in documents if document.get("level") in {"error", "critical"}]


async def test_a_pool_that_was_frozen_doubles_nothing_and_is_not_alarmed(running: Fleet, acme: TenantClient) -> None:
    """SIGSTOP past its leases, in mid-turn and in mid-drain: the other joins its turns; it wakes and goes on."""
    ids = [(await acme.send(AGENTS[n % 4], f"[[delay 0.5]] [[say {n}]]")).message_id for n in range(16)]
    await until(lambda: len(running.turns()) >= 6)
    frozen = running.processes["pool-1"]
    frozen.send_signal(signal.SIGSTOP)
    try:
        receipts = await all_final(acme, ids, within=30)
    finally:
        frozen.send_signal(signal.SIGCONT)
    after = await all_final(acme, [(await acme.send(agent, "[[say ok]]")).message_id for agent in AGENTS])

    assert {receipt.state for receipt in (*receipts, *after)} == {State.DELIVERED}
    assert len(running.turns()) == len(ids) + len(after)
    assert all(running.is_running(name) for name in POOLS)
    assert errors(running) == []


async def test_connections_that_are_cut_again_and_again_lose_and_double_nothing(
    running: Fleet, acme: TenantClient
) -> None:
    """Replies of takes, settlements and dispatches are lost on their way; what was done stays done."""
    client = connect(running.server.url)
    ids = []
    for n in range(24):
        ids.append((await acme.send(AGENTS[n % 4], f"[[delay 0.1]] [[say {n}]]")).message_id)
        if n % 3 == 0:
            await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.sleep(0.2)
    await close(client)
    receipts = await all_final(acme, ids, within=40)

    assert {receipt.state for receipt in receipts} == {State.DELIVERED}
    assert len(running.turns()) == len(ids)
    assert errors(running) == []


async def test_a_server_that_is_killed_and_forgets_its_runs_costs_only_what_it_was_doing(
    running: Fleet, acme: TenantClient
) -> None:
    """Turns that it was in the middle of cannot be told any more; whoever waited goes at once, at the cost of one
    attempt.
    """
    running.kill("letta", signal.SIGTERM)
    start = ("sandbox", "--port", str(running.letta_port), "--seed-demo", "--turn-log", str(running.turn_log), "--json")
    running.start("letta", *start)
    await all_final(acme, [(await acme.send(agent, "[[say before]]")).message_id for agent in AGENTS], within=40)
    cut = [await acme.send(agent, "[[delay 30]] [[say never]]", on_unknown="never_resend") for agent in AGENTS]

    async def are_named() -> bool:
        receipts = [await acme.receipt(one.message_id) for one in cut]
        return all(receipt.deliveries and receipt.deliveries[0].run_id for receipt in receipts)

    # A turn that was begun and not named could not be told from one that was never sent, by a server that forgot all.
    await until(are_named, within=20)
    running.kill("letta")
    ids = [(await acme.send(AGENTS[n % 4], f"[[say {n}]]")).message_id for n in range(8)]
    await until(lambda: any("letta is left alone" in running.log(name) for name in POOLS), within=20)
    running.start("letta", *start)
    receipts = await all_final(acme, ids, within=60)
    unknown = await all_final(acme, [one.message_id for one in cut])

    assert {receipt.state for receipt in receipts} == {State.DELIVERED}
    assert {receipt.deliveries[0].attempts for receipt in receipts} == {1}
    assert {receipt.state for receipt in unknown} == {State.UNKNOWN}
    assert len(running.turns()) == 2 * len(AGENTS) + len(ids)
    assert errors(running) == []
