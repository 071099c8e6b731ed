"""A tenant is deleted under load, on real processes (FAULTS.md F37)."""

import asyncio
import json
import signal
import subprocess
import sys
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
from workers.broker import keys
from workers.broker.client import Client, close, connect
from workers.bus.client import TenantClient
from workers.directory.tenants import Tenants
from workers.errors import NotFoundError, SuspendedError

pytestmark = pytest.mark.processes

AGENTS = ("acme-researcher", "acme-writer", "acme-editor", "acme-support")
COMMAND = (sys.executable, "-c", "from console.main import main; main()")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Fleet]:
    server = RedisServer(next(iter(REAL.values()))).start()
    with fleet(server, tmp_path) as started:
        started.start_letta()
        started.start_all()
        yield started
    server.stop()


@pytest.fixture
async def redis(running: Fleet) -> AsyncIterator[Client]:
    client = connect(running.server.url)
    for tenant in ("acme", "globex"):
        await Tenants(client).create(Operator("test"), tenant, Limits(), now_ms=1)
    yield client
    await close(client)


@pytest.fixture
async def acme(running: Fleet, redis: Client) -> AsyncIterator[TenantClient]:  # registers it
    async with TenantClient.open(running.server.url, tenant="acme") as opened:
        yield opened


@pytest.fixture
async def globex(running: Fleet, redis: Client) -> AsyncIterator[TenantClient]:  # registers it
    async with TenantClient.open(running.server.url, tenant="globex") as opened:
        yield opened


async def until_no_key_is_left(client: Client) -> None:
    async def is_gone() -> bool:
        return not [key async for key in client.scan_iter("postroom:{acme}:*")] and not await client.exists(
            keys.leaving()
        )

    await until(is_gone, within=60)


def errors(running: Fleet) -> list[str]:
    logged = [line for name in running.processes if name != "letta" for line in _log(running, name).splitlines()]
    documents = [json.loads(line) for line in logged if line.startswith("{")]
    return [one["event"] for one in documents if one.get("level") in {"error", "critical"}]


def _log(running: Fleet, name: str) -> str:
    return running.log(name)


def run(running: Fleet, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], env=running.environment, capture_output=True, text=True, timeout=90, check=False
    )


async def publish_until_refused(client: TenantClient) -> int:
    """A producer that goes on until it is told that there is no such tenant; how many were accepted."""
    accepted = 0
    while True:
        try:
            await client.send(AGENTS[accepted % 4], "[[delay 0.2]] [[say ok]]")
            accepted += 1
        except SuspendedError:
            await asyncio.sleep(0.05)
        except NotFoundError:
            return accepted
        await asyncio.sleep(0.02)


async def test_a_tenant_under_load_is_deleted_whole(
    running: Fleet, redis: Client, acme: TenantClient, globex: TenantClient
) -> None:
    """No call after the mark, no key left, and another tenant does not notice."""
    producer = asyncio.create_task(publish_until_refused(acme))
    await until(lambda: len(running.turns()) >= 8)
    others = [(await globex.send("globex-writer", f"[[delay 0.2]] [[say {n}]]")).message_id for n in range(20)]
    ran = await asyncio.to_thread(run, running, "tenant", "delete", "acme", "--confirm", "acme", "--json")
    assert ran.returncode == 0, ran.stderr
    document = json.loads(ran.stdout)
    marked_at_ms = document["marked_at_ms"]
    await until_no_key_is_left(redis)
    accepted = await producer
    receipts = await all_final(globex, others)
    await asyncio.sleep(1)

    assert accepted > 8
    calls = [turn for turn in running.turns() if turn["agent_name"] in AGENTS]
    assert calls
    assert max(turn["at"] for turn in calls) <= marked_at_ms
    assert {receipt.state for receipt in receipts} == {State.DELIVERED}
    assert await redis.zscore(keys.agenda(), "acme") is None
    assert (await asyncio.to_thread(run, running, "audit", "-t", "globex")).returncode == 0
    assert errors(running) == []
    assert not await redis.keys("postroom:{acme}:*")


async def test_a_command_that_is_killed_after_the_mark_is_finished_by_a_dispatcher(
    running: Fleet, redis: Client, acme: TenantClient
) -> None:
    """The dispatcher is away at the mark, and a pool is killed, too: one dispatcher again is enough."""
    for number in range(30):
        await acme.send(AGENTS[number % 4], "[[delay 0.1]] [[say ok]]")
    await until(lambda: len(running.turns()) >= 4)
    running.kill("dispatcher")
    running.start("delete", "tenant", "delete", "acme", "--confirm", "acme", "--wait", "1s")

    async def is_marked() -> bool:
        return bool(await redis.hexists("postroom:{acme}:tenant", "leaving"))

    await until(is_marked, within=30)
    running.kill("delete", signal.SIGKILL)
    running.kill("pool", signal.SIGKILL)
    marked_at_ms = int(await redis.hget("postroom:{acme}:tenant", "marked_at_ms") or 0)
    running.start_all()
    await until_no_key_is_left(redis)

    assert marked_at_ms
    assert max(turn["at"] for turn in running.turns()) <= marked_at_ms
    assert await redis.smembers(keys.tenants()) == {b"globex"}
    await Tenants(redis).create(Operator("test"), "acme", Limits(), now_ms=1)
    assert (await acme.ask("acme-support", "[[say fresh]]", within=20)).reply == "fresh"


async def test_a_tenant_is_exported_before(running: Fleet, acme: TenantClient, tmp_path: Path) -> None:
    for number in range(3):
        await acme.ask(AGENTS[number], f"[[say reply {number}]]", within=20)
    target = tmp_path / "acme.jsonl"
    ran = await asyncio.to_thread(run, running, "tenant", "export", "acme", "--out", str(target), "--json")
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    piped = await asyncio.to_thread(run, running, "tenant", "export", "acme")

    assert json.loads(ran.stdout)["counts"] == lines[-1]["counts"]
    assert (lines[0]["kind"], lines[-1]["kind"], lines[-1]["counts"]["message"]) == ("header", "end", 3)
    assert json.loads(piped.stdout.splitlines()[-1]) == lines[-1]


async def test_a_tenant_is_not_deleted_by_a_slip(running: Fleet, redis: Client) -> None:
    """Without a terminal its name must be given, and be right."""
    for arguments in ((), ("--confirm", "globex")):
        ran = await asyncio.to_thread(run, running, "tenant", "delete", "acme", *arguments)
        assert ran.returncode == 3
        assert "nothing was deleted" in ran.stderr
    assert await redis.hget("postroom:{acme}:tenant", "suspended") == b"0"
    assert (await asyncio.to_thread(run, running, "tenant", "delete", "nobody", "--confirm", "nobody")).returncode == 4
