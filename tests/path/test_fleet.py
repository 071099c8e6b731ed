"""`postroom serve fleet`: a parent that waits for its children, frees at once what a dead one held, and replaces it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from console.child import Orders
from console.fleet import COMMAND, GIVES_UP_AFTER
from schemas.context import Operator, service_context
from schemas.delivery import Cause, State
from schemas.tenant import Limits
from tests.conftest import REAL
from tests.support.fleet import Fleet, fleet
from tests.support.redis_server import RedisServer
from tests.support.town import all_final
from tests.support.waiting import until
from workers.broker import keys
from workers.broker.client import Client, close, connect
from workers.broker.rules import Pool
from workers.bus.client import TenantClient
from workers.directory.tenants import Tenants
from workers.ids import new_process_id

pytestmark = pytest.mark.processes

AGENTS = ("acme-researcher", "acme-writer", "acme-editor", "acme-support")
START_SECONDS = 60
AT_ONCE_SECONDS = 6
"""Far below the 15 s after which a lease runs out, and what a busy machine needs."""
HOLDERS = keys.of(service_context("acme", "test")).holders


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Fleet]:
    server = RedisServer(next(iter(REAL.values()))).start()
    with fleet(server, tmp_path) as started:
        started.start_letta()
        yield started
    server.stop()


@pytest.fixture
async def client(running: Fleet) -> AsyncIterator[Client]:
    opened = connect(running.server.url)
    await Tenants(opened).create(Operator("test"), "acme", Limits(), now_ms=1)
    yield opened
    await close(opened)


@pytest.fixture
async def acme(running: Fleet, client: Client) -> AsyncIterator[TenantClient]:
    async with TenantClient.open(running.server.url, tenant="acme") as opened:
        yield opened


def said(running: Fleet) -> list[dict[str, object]]:
    """What the parent told, in order; its log lines have a level."""
    lines = [json.loads(line) for line in running.log("fleet").splitlines() if line.startswith("{")]
    return [line for line in lines if "level" not in line]


def told(running: Fleet, event: str) -> list[dict[str, object]]:
    return [one for one in said(running) if one["event"] == event and one.get("service") in {None, "fleet"}]


async def start(running: Fleet, *, pools: int = 1) -> subprocess.Popen[bytes]:
    process = running.start("fleet", "serve", "fleet", "--pools", str(pools), "--json")
    await until(lambda: told(running, "ready"), within=START_SECONDS)
    return process


async def children(client: Client) -> dict[str, int]:
    """The live services by role, with their process ids."""
    found = [key.decode().removeprefix(keys.process()) async for key in client.scan_iter(match=f"{keys.process()}*")]
    return {one.partition("@")[0]: int(one.split(":")[-2]) for one in found}


async def owners(client: Client) -> dict[str, str]:
    """Who has each agent's turn now."""
    return {agent.decode(): holder.decode().split("|")[2] for agent, holder in (await client.hgetall(HOLDERS)).items()}


def is_alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


async def test_turns_of_a_killed_child_are_joined_within_seconds(
    running: Fleet, acme: TenantClient, client: Client
) -> None:
    """kill -9 in mid-turn of the only pool: the spare takes its place, joins the calls, and begins none anew (F01)."""
    await start(running)
    ids = [(await acme.send(agent, "[[delay 4]] [[say ok]]")).message_id for agent in AGENTS]
    await until(lambda: len(running.turns()) == len(AGENTS))
    before = await owners(client)
    killed_at = time.monotonic()
    os.kill((await children(client))["pool-1"], signal.SIGKILL)

    async def are_held_again() -> bool:
        now = await owners(client)
        return set(now) == set(before) and not set(now.values()) & set(before.values())

    await until(are_held_again, within=AT_ONCE_SECONDS)
    assert time.monotonic() - killed_at < AT_ONCE_SECONDS
    receipts = await all_final(acme, ids, within=30)

    assert {receipt.state for receipt in receipts} == {State.DELIVERED}
    assert {receipt.deliveries[0].attempts for receipt in receipts} == {2}
    assert len(running.turns()) == len(AGENTS)
    (freed,) = told(running, "freed")
    assert (freed["leases"], freed["streams"]) == (len(AGENTS), 0)


async def test_streams_of_a_killed_dispatcher_are_read_on(running: Fleet, acme: TenantClient, client: Client) -> None:
    await start(running)
    assert (await acme.ask("acme-writer", "[[say before]]", within=20)).reply == "before"
    killed_at = time.monotonic()
    os.kill((await children(client))["dispatcher"], signal.SIGKILL)
    after = await acme.ask("acme-writer", "[[say after]]", within=AT_ONCE_SECONDS)

    assert after.reply == "after"
    assert time.monotonic() - killed_at < AT_ONCE_SECONDS
    (freed,) = told(running, "freed")
    assert (freed["leases"], freed["streams"]) == (0, 1)


async def test_poison_still_ends_after_three_deaths(running: Fleet, acme: TenantClient, client: Client) -> None:
    """And what is behind it goes on, all within seconds (F22)."""
    await start(running, pools=2)
    poison = (await acme.send("acme-writer", "[[delay 30]] [[say never]]")).message_id
    behind = (await acme.send("acme-writer", "[[say behind]]")).message_id
    await until(running.turns, within=20)
    victims: set[str] = set()
    for _ in range(3):

        async def has_another() -> bool:
            return bool(set((await owners(client)).values()) - victims)

        await until(has_another, within=20)
        (victim,) = set((await owners(client)).values())
        victims.add(victim)
        os.kill(int(victim.split(":")[-2]), signal.SIGKILL)
    ended = await acme.wait(poison, within=10)

    assert (ended.state, ended.deliveries[0].cause) == (State.DEAD, Cause.POISON)
    assert len(running.turns()) == 1
    # The server still works on the turn that was given up.
    assert (await acme.receipt(behind)).state is not State.DEAD


async def test_children_of_a_killed_parent_finish_their_turns_and_end(
    running: Fleet, acme: TenantClient, client: Client
) -> None:
    """kill -9 of the parent alone: no turn is cut, no process is left over."""
    process = await start(running)
    family = [*(await children(client)).values()]
    sent = await acme.send("acme-writer", "[[delay 2]] [[say finished]]")
    await until(running.turns)
    process.kill()
    process.wait()
    receipt = await acme.wait(sent.message_id, within=10)

    assert (receipt.reply, receipt.deliveries[0].attempts) == ("finished", 1)
    await until(lambda: not any(is_alive(pid) for pid in family), within=20)
    assert await children(client) == {}


async def test_where_all_are_killed_the_leases_run_out(running: Fleet, acme: TenantClient, client: Client) -> None:
    """Nobody is left who saw it: 15 s, and the next fleet joins the call."""
    process = await start(running)
    sent = await acme.send("acme-writer", "[[delay 3]] [[say joined]]")
    await until(running.turns)
    family = [*(await children(client)).values()]
    process.kill()
    for pid in family:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    await start(running)
    receipt = await acme.wait(sent.message_id, within=30)

    assert (receipt.reply, receipt.deliveries[0].attempts) == ("joined", 2)
    assert len(running.turns()) == 1


async def test_a_signal_lets_turns_finish(running: Fleet, acme: TenantClient, client: Client) -> None:
    """SIGTERM to the parent, and to every child, as a supervisor of a whole group sends it: nothing is cut."""
    process = await start(running)
    sent = await acme.send("acme-writer", "[[delay 2]] [[say finished]]")
    await until(running.turns)
    for pid in (await children(client)).values():
        os.kill(pid, signal.SIGTERM)
    process.terminate()
    code = await asyncio.to_thread(process.wait, 30)
    receipt = await acme.wait(sent.message_id, within=1)

    assert code == 0
    assert (receipt.reply, receipt.deliveries[0].attempts) == ("finished", 1)
    assert told(running, "stopped")


async def test_a_second_signal_ends_at_once(running: Fleet, acme: TenantClient, client: Client) -> None:
    process = await start(running)
    family = [*(await children(client)).values()]
    await acme.send("acme-writer", "[[delay 30]] [[say never]]")
    await until(running.turns)
    process.terminate()
    await until(lambda: told(running, "stopping"))
    process.terminate()

    assert await asyncio.to_thread(process.wait, 5) == 130
    await until(lambda: not any(is_alive(pid) for pid in family), within=5)


async def test_a_fleet_whose_children_die_before_they_are_ready_gives_up_loudly(running: Fleet, tmp_path: Path) -> None:
    """Here: whatever starts is killed by what Python runs first of all."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sitecustomize.py").write_text(
        "import os, sys\nif 'console.child' in sys.orig_argv: os._exit(9)\n"
    )
    running.settings |= {"PYTHONPATH": str(tmp_path / "broken")}
    process = running.start("fleet", "serve", "fleet", "--pools", "0", "--json")
    code = await asyncio.to_thread(process.wait, 60)

    assert code == 1
    assert f"dispatcher-1 died {GIVES_UP_AFTER} times in a row before it was ready" in running.log("fleet")


async def test_a_fleet_refuses_what_its_children_refuse(tmp_path: Path) -> None:
    """A Redis that loses messages: with the code that says so, and without trying again."""
    server = RedisServer(next(iter(REAL.values())), append_only=False).start()
    try:
        with fleet(server, tmp_path, POSTROOM_ACCEPT_LOSS="false") as refused:
            process = refused.start("fleet", "serve", "fleet", "--pools", "0")
            code = await asyncio.to_thread(process.wait, 60)

            assert code == 78
            assert "appendonly is no" in refused.log("fleet")
    finally:
        server.stop()


def test_a_child_that_is_given_nothing_ends() -> None:
    """Its parent died, or needs no spare."""
    done = subprocess.run([*COMMAND], input=b"", capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_child_is_named_by_its_parent() -> None:
    orders = Orders(process_id=new_process_id("pool-1", 4711), pools=(Pool.EXPRESS,))
    assert ":4711:" in orders.process_id
    assert Orders.model_validate_json(orders.model_dump_json()) == orders
    assert str(sys.executable) == COMMAND[0]
