"""A bulk send whose every part is killed in turn while it runs: each recipient still has one turn of it."""

import asyncio
import csv
import io
import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import redis

from schemas.context import Operator
from schemas.ids import TenantId
from schemas.tenant import Limits
from tests.conftest import REAL
from tests.support.fleet import Fleet, fleet
from tests.support.redis_server import RedisServer
from tests.support.waiting import until
from workers.broker import keys
from workers.broker.client import close, connect
from workers.directory.tenants import Tenants

pytestmark = pytest.mark.processes

RECIPIENTS = int(os.environ.get("POSTROOM_TEST_RECIPIENTS", "5000"))
TENANT: TenantId = "acme"
BULK = "bulk-1"
OPERATOR = Operator("test")
ROOT = keys.of(OPERATOR.for_tenant(TENANT))
SEND = ("send", "--tags", "role:many", "[[delay 0.05]] [[say ok]]", "-t", TENANT, "--id", BULK, "--confirm", "--wait")
POOLS = {"pool-a": ("express", "bulk", "standard"), "pool-b": ("express", "bulk", "standard")}
END_SECONDS = 240


@pytest.fixture
def durable() -> Iterator[RedisServer]:
    """A Redis of this test's own, to be killed. It writes its AOF before it answers, and what a process has written
    outlives it: only a machine that loses its power loses what was not synced.
    """
    server = RedisServer(next(iter(REAL.values()))).start()
    yield server
    server.stop()


@pytest.fixture
async def running(durable: RedisServer, tmp_path: Path) -> AsyncIterator[Fleet]:
    client = connect(durable.url)
    limits = Limits(per_minute=1_000_000, in_flight=100)
    await Tenants(client).create(OPERATOR, TENANT, limits, now_ms=1)
    await close(client)
    with fleet(durable, tmp_path, POSTROOM_ACCEPT_LOSS="false", POSTROOM_LOG_LEVEL="warning") as started:
        started.start_letta()
        made = {"count": RECIPIENTS, "prefix": "many", "tags": [f"tenant:{TENANT}", "role:many"]}
        httpx.post(f"http://127.0.0.1:{started.letta_port}/_sandbox/agents", json=made, timeout=60).raise_for_status()
        started.start("dispatcher", "serve", "dispatcher")
        for pool, names in POOLS.items():
            started.start(pool, "serve", "pool", *names)
        yield started


@pytest.fixture
def record(durable: RedisServer) -> Iterator["Record"]:
    with redis.Redis(port=durable.port) as client:
        yield Record(client)


class Record:
    """The message's record, looked at with a client of its own."""

    def __init__(self, client: "redis.Redis") -> None:
        self._client = client

    def __call__(self, field: str) -> str:
        return (self._client.hget(ROOT.message(BULK), field) or b"").decode()

    @property
    def delivered(self) -> int:
        return int(self._client.hget(ROOT.counters, "delivered") or 0)

    def turns_of(self, process: int) -> int:
        """How many turns this process has under lease."""
        owners = [holder.decode().split("|")[2] for holder in self._client.hvals(ROOT.holders)]
        return sum(1 for owner in owners if f":{process}:" in owner)

    @property
    def kept(self) -> bool:
        return bool(self._client.exists(ROOT.message(BULK)))


def kill_in_mid_turn(running: Fleet, record: Record, pool: str) -> None:
    """Kills a pool that has turns, which its leases still tell when it is dead."""
    for _ in range(20):
        process = running.processes[pool].pid
        while not record.turns_of(process):
            time.sleep(0.002)
        running.kill(pool)
        if record.turns_of(process):
            return
        running.start(pool, "serve", "pool", *POOLS[pool])
    raise AssertionError(f"{pool} was never killed in mid-turn")


async def shell(running: Fleet, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs one command to its end."""
    return await asyncio.to_thread(running.command, *arguments)


async def test_a_bulk_send_outlives_shell_dispatcher_worker_and_redis(running: Fleet, record: Record) -> None:
    running.start("shell", *SEND)
    await until(lambda: record.kept, 30)
    assert running.kill("shell") == -9
    await until(lambda: record("state") == "expanding" and int(record("expanded") or 0) > 0, 30)
    running.kill("dispatcher")
    assert record("state") == "expanding", "the kill came after the expansion"
    assert 0 < int(record("expanded")) < RECIPIENTS

    running.start("dispatcher", "serve", "dispatcher")
    running.start("shell", *SEND)
    await until(lambda: record.delivered > RECIPIENTS // 20, END_SECONDS)
    await asyncio.to_thread(kill_in_mid_turn, running, record, "pool-a")
    running.start("pool-a", "serve", "pool", *POOLS["pool-a"])

    await until(lambda: record.delivered > RECIPIENTS // 2, END_SECONDS)
    running.server.kill()
    await asyncio.sleep(1)
    running.server.start()

    code = await asyncio.to_thread(running.processes.pop("shell").wait, END_SECONDS)
    assert code == 0
    assert running.log("shell").splitlines()[-2:] == [f"{RECIPIENTS:,} delivered", BULK]
    await holds(running)


async def holds(running: Fleet) -> None:
    """One turn for each, one end for each, and a ledger that agrees with itself."""
    turns = Counter(turn["agent_name"] for turn in running.turns())
    assert turns == {f"many-{number}": 1 for number in range(RECIPIENTS)}
    results = await shell(running, "bulk", "results", BULK, "-t", TENANT, "-o", "csv")
    rows = list(csv.DictReader(io.StringIO(results.stdout)))
    assert results.returncode == 0
    assert Counter((row["state"], row["reply"]) for row in rows) == {("delivered", "ok"): RECIPIENTS}
    assert len({row["agent_id"] for row in rows}) == RECIPIENTS
    audited = await shell(running, "audit", "-t", TENANT)
    assert audited.returncode == 0, audited.stdout + audited.stderr
    watched = await shell(running, "bulk", "watch", BULK, "-t", TENANT, "--json")
    assert (watched.returncode, json.loads(watched.stdout)["ends"]) == (0, {"delivered": RECIPIENTS})
