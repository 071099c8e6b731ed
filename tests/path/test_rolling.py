"""A rolling restart under load: two pools and two dispatchers, each in turn, as an upgrade does it (FAULTS.md F29)."""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from schemas.context import Operator, service_context
from schemas.delivery import State
from schemas.receipt import Receipt
from schemas.tenant import Limits
from tests.conftest import REAL
from tests.support.fleet import Fleet, fleet
from tests.support.redis_server import RedisServer
from tests.support.town import all_final
from tests.support.waiting import until
from workers.broker import keys
from workers.broker.client import Client, close, connect
from workers.broker.rules import Rules
from workers.bus.client import TenantClient
from workers.clock import SystemClock
from workers.directory.tenants import Tenants
from workers.mailbox.audit import audit

pytestmark = pytest.mark.processes

AGENTS = ("acme-researcher", "acme-writer", "acme-editor", "acme-support")
PARTS = {
    "pool-1": ("serve", "pool", "express", "standard", "bulk"),
    "dispatcher-1": ("serve", "dispatcher"),
    "pool-2": ("serve", "pool", "express", "standard", "bulk"),
    "dispatcher-2": ("serve", "dispatcher"),
}
ROUNDS = int(os.environ.get("POSTROOM_TEST_ROUNDS", "1"))
PATIENCE_SECONDS = 60
"""On a machine where much else runs."""
LIMITS = Limits(per_minute=100_000, team_per_minute=100_000, agent_per_minute=100_000)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Fleet]:
    server = RedisServer(next(iter(REAL.values()))).start()
    with fleet(server, tmp_path) as started:
        started.start_letta()
        for name, arguments in PARTS.items():
            started.start(name, *arguments)
        yield started
    server.stop()


@pytest.fixture
async def client(running: Fleet) -> AsyncIterator[Client]:
    opened = connect(running.server.url)
    await Tenants(opened).create(Operator("test"), "acme", LIMITS, now_ms=1)
    yield opened
    await close(opened)


@pytest.fixture
async def acme(running: Fleet, client: Client) -> AsyncIterator[TenantClient]:
    async with TenantClient.open(running.server.url, tenant="acme") as opened:
        yield opened


class Load:
    """Messages one after the other, to all agents, until it is told to end."""

    def __init__(self, acme: TenantClient, turn_seconds: float) -> None:
        self.ids: list[str] = []
        self._acme = acme
        self._turn_seconds = turn_seconds
        self._over = False
        self._task = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while not self._over:
            number = len(self.ids)
            text = f"[[delay {self._turn_seconds}]] [[say {number}]]"
            self.ids.append((await self._acme.send(AGENTS[number % 4], text)).message_id)
            await asyncio.sleep(self._turn_seconds / 5)

    async def end(self) -> list[Receipt]:
        self._over = True
        await self._task
        return await all_final(self._acme, self.ids, within=60)


async def test_a_graceful_round_loses_and_repeats_nothing_and_calls_nobody_twice(
    running: Fleet, acme: TenantClient, client: Client
) -> None:
    await until(lambda: _all_are_ready(client), within=PATIENCE_SECONDS)
    load = Load(acme, 0.2)
    await until(lambda: len(running.turns()) >= 8, within=PATIENCE_SECONDS)
    for _ in range(ROUNDS):
        for name, arguments in PARTS.items():
            code = await asyncio.to_thread(running.kill, name, signal.SIGTERM)
            assert code == 0, running.log(name)[-500:]
            before = len(running.turns())
            # Under load throughout: the other one of each kind goes on.
            await until(lambda before=before: len(running.turns()) > before + 4, within=PATIENCE_SECONDS)  # type: ignore[misc]
            running.start(name, *arguments)
            await until(lambda: _all_are_ready(client), within=PATIENCE_SECONDS)
    receipts = await load.end()

    assert {receipt.state for receipt in receipts} == {State.DELIVERED}
    assert {receipt.deliveries[0].attempts for receipt in receipts} == {1}
    assert set(_calls(running).values()) == {1}
    _each_once_in_order(running, receipts)
    assert await audit(service_context("acme", "test"), client, SystemClock(), rules=Rules()) == []


async def test_whoever_does_not_end_in_time_is_killed_and_its_turns_are_joined_again(
    running: Fleet, acme: TenantClient, client: Client
) -> None:
    """SIGTERM, and kill -9 after a while: turns are longer than a supervisor's patience; as F01."""
    await until(lambda: _all_are_ready(client), within=PATIENCE_SECONDS)
    load = Load(acme, 4.0)
    await until(lambda: len(running.turns()) >= 4, within=PATIENCE_SECONDS)
    for name in ("pool-1", "dispatcher-1"):
        process = running.processes[name]
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, 2)
        except Exception:  # noqa: BLE001  # whichever: it has not ended
            running.kill(name)
        else:
            running.processes.pop(name)
        running.start(name, *PARTS[name])
        await until(lambda: _all_are_ready(client), within=PATIENCE_SECONDS)
    receipts = await load.end()

    assert {receipt.state for receipt in receipts} == {State.DELIVERED}
    _each_once_in_order(running, receipts)
    assert await audit(service_context("acme", "test"), client, SystemClock(), rules=Rules()) == []


async def _all_are_ready(client: Client) -> bool:
    """By their signs of life; one that ends takes its own away, one that was killed leaves it for some seconds."""
    signs = [json.loads(await client.get(key) or "{}") for key in await client.keys(keys.process() + "*")]
    return sum(bool(sign) and all(sign["services"].values()) for sign in signs) >= len(PARTS)


def _calls(running: Fleet) -> Counter[str]:
    """How often the server was called for a turn, by otid: one call for each, where nobody looked or sent again."""
    lines = [json.loads(line) for line in running.turn_log.read_text().splitlines()]
    return Counter(line["otid"] for line in lines if line["event"] == "request" and line["otid"])


def _each_once_in_order(running: Fleet, receipts: list[Receipt]) -> None:
    """Every message had one turn on the server, and each agent had its own in the order they were sent."""
    turns = running.turns()
    assert len(turns) == len(receipts)
    otids = Counter(turn["otid"] for turn in turns)
    assert set(otids.values()) == {1}
    sent = [receipt.message_id for receipt in receipts]
    for agent in {turn["agent"] for turn in turns}:
        mine = [turn["otid"].split(":")[-4] for turn in turns if turn["agent"] == agent]
        assert mine == sorted(mine, key=sent.index)
