"""Dead letters from the operator's side: looked at, mended, put back, delivered once; and the audit over all of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from console.sandbox.behaviour import Behaviour
from schemas.delivery import State
from schemas.tenant import Limits
from tests.support.redis_server import RedisServer
from tests.support.shell import Cli, Ran
from tests.support.town import OPERATOR, Town, all_final, town
from tests.support.waiting import until
from workers.broker import keys
from workers.bus.client import TenantClient

ACME = keys.TenantKeys("acme")


@dataclass
class Desk:
    """A town, and the operator's shell beside it."""

    town: Town
    cli: Cli

    async def __call__(self, *arguments: str, stdin: bytes = b"") -> Ran:
        return await asyncio.to_thread(self.cli, *arguments, stdin=stdin)

    async def json(self, *arguments: str) -> Any:
        return (await self(*arguments, "--json")).json


@pytest.fixture
async def desk(server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    cli = Cli(tmp_path, monkeypatch)
    cli.set(POSTROOM_REDIS_URL=server.url, POSTROOM_TENANT="acme", POSTROOM_ACCEPT_LOSS="true")
    async with town(server, tmp_path, max_attempts=2, park_after=0) as opened:
        yield Desk(opened, cli)


async def dead_of(desk: Desk, acme: TenantClient, agent: str, number: int = 1) -> list[str]:
    """So many messages that the agent could not take."""
    sent = [await acme.send(agent, f"[[say ok]] number {one}") for one in range(number)]
    receipts = await all_final(acme, [one.message_id for one in sent])
    assert {receipt.state for receipt in receipts} == {State.DEAD}
    return [receipt.message_id for receipt in receipts]


async def test_a_failing_agent_is_mended_and_its_letters_are_delivered_once_and_in_order(desk: Desk) -> None:
    agent = desk.town.add_agent("writer", fail_status=500, fail_where="letta")
    async with desk.town.of() as acme:
        ids = await dead_of(desk, acme, "writer", 5)
        [group] = await desk.json("dead", "list")
        assert (group["cause"], group["letters"], group["agents"]) == ("attempts", 5, 1)

        agent.behaviour = Behaviour()
        before = len(desk.town.turns(agent))
        ran = await desk("dead", "redrive", "--agent", "writer", "--cause", "attempts")

        assert (ran.code, ran.out.strip()) == (0, "5 put back")
        receipts = await all_final(acme, ids)
    assert {receipt.state for receipt in receipts} == {State.DELIVERED}
    ended = [receipt.deliveries[0].read_at_ms for receipt in receipts]
    assert ended == sorted(ended, key=lambda at: at or 0)
    assert len(desk.town.turns(agent)) - before == 5
    assert [receipt.deliveries[0].attempts for receipt in receipts] == [1] * 5
    assert (await desk("dead", "redrive", "--all")).code == 0
    assert await desk.json("dead", "list", "--all") == []
    assert (await desk("audit")).code == 0


async def test_a_letter_shows_the_last_error_and_the_message(desk: Desk) -> None:
    desk.town.add_agent("writer", fail_status=500, fail_where="letta")
    async with desk.town.of() as acme:
        [id_] = await dead_of(desk, acme, "writer")

    shown = await desk("dead", "show", id_)
    document = await desk.json("dead", "show", f"{id_}:1")

    assert shown.code == 0
    assert "every attempt failed" in shown.out
    assert "number 0" in shown.out
    assert document["detail"] in shown.out
    assert "500" in document["detail"]
    assert (document["attempts"], document["envelope"]["content"]) == (2, "[[say ok]] number 0")


async def test_what_was_refused_shows_its_bytes_and_goes_back_when_its_agent_is_there(desk: Desk) -> None:
    raw = b'{"to":{"agent":"late"},"content":"[[say here]]"}'
    await desk.town.client.xadd(ACME.tasks, {"message": raw})
    await desk.town.client.xadd(ACME.tasks, {"message": b"\xff\x1b[31m not an envelope"})
    await until(lambda: _letters(desk, 2))
    by_cause = {one["cause"]: one["id"] for one in await desk.json("dead", "list", "--all")}

    strange = await desk("dead", "show", by_cause["invalid"])
    assert "\\xff" in strange.out
    assert "\x1b" not in strange.out
    assert (await desk.json("dead", "show", by_cause["invalid"]))["raw_base64"]
    assert (await desk.json("dead", "show", by_cause["unknown_agent"]))["raw"] == raw.decode()

    agent = desk.town.add_agent("late")
    ran = await desk("dead", "redrive", "--cause", "unknown_agent")
    assert (ran.code, ran.out.strip()) == (0, "1 put back")
    await until(lambda: asyncio.sleep(0, len(desk.town.turns(agent)) == 1))
    assert (await desk("dead", "discard", "--all")).out.strip() == "1 given up"
    await until(lambda: _letters(desk, 0))
    assert (await desk("audit")).code == 0


async def _letters(desk: Desk, number: int) -> bool:
    count: int = await desk.town.client.xlen(ACME.dead)
    return count == number


async def test_a_dry_run_changes_nothing_and_what_is_not_there_is_said(desk: Desk) -> None:
    desk.town.add_agent("writer", fail_status=500, fail_where="letta")
    async with desk.town.of() as acme:
        [id_] = await dead_of(desk, acme, "writer")

    dry = await desk("dead", "redrive", "--id", id_, "--dry-run")
    assert (dry.code, f"{id_}:1" in dry.out) == (0, True)
    assert "nothing was changed" in dry.err
    assert await _letters(desk, 1)
    assert (await desk("dead", "redrive", "--id", "nobody")).code == 4
    assert (await desk("dead", "show", "nobody")).code == 4
    assert (await desk("dead", "redrive")).code == 2
    assert (await desk("dead", "discard", "--all", "--older-than", "1h")).code == 2
    assert (await desk("dead", "discard", "--older-than", "1h")).code == 0
    assert await _letters(desk, 1)


async def test_many_are_asked_for_and_what_has_expired_needs_new_time(desk: Desk) -> None:
    """Past a hundred nobody does it by a slip; with --yes it goes through, and the ends are told apart."""
    agent = desk.town.add_agent("writer", fail_status=400, fail_where="letta")
    async with desk.town.of() as acme:
        ids = [(await acme.send("writer", f"[[say ok]] {one}")).message_id for one in range(100)]
        short = (await acme.send("writer", "[[say ok]] short", expires_in=8)).message_id
        assert {one.state for one in await all_final(acme, [*ids, short], within=30)} <= {State.DEAD, State.REFUSED}
        await until(lambda: _expired(desk, short), within=15)
        agent.behaviour = Behaviour()

        asked = await desk("dead", "redrive", "--all")
        assert (asked.code, "--yes" in asked.err) == (3, True)
        assert await _letters(desk, 101)

        done = await desk("dead", "redrive", "--all", "--yes", "--json")
        assert (done.code, done.json["redriven"], done.json["expired"]) == (1, 100, 1)
        again = await desk("dead", "redrive", "--id", short, "--ttl", "1m")
        assert again.code == 0
        receipts = await all_final(acme, [*ids, short], within=30)
    assert {receipt.state for receipt in receipts} == {State.DELIVERED}
    assert (await desk("audit")).code == 0


async def _expired(desk: Desk, message_id: str) -> bool:
    seconds, _ = await desk.town.client.time()
    expires_at = await desk.town.client.hget(ACME.message(message_id), "expires_at")
    return int(seconds) * 1000 > int(expires_at)


async def test_the_audit_is_silent_while_everybody_works(desk: Desk) -> None:
    """Publishes, turns, failures, redrives and discards go on under it, and it finds nothing that is not there."""
    for number in range(20):
        desk.town.add_agent(f"busy-{number}", latency_seconds=0.02)
    desk.town.add_agent("weak", fail_status=500, fail_where="letta")
    limits = Limits(per_minute=100_000, team_per_minute=100_000, agent_per_minute=100_000)
    await desk.town.tenants.change_limits(OPERATOR, "acme", limits)
    over = asyncio.Event()
    ids: list[str] = []

    async def produce(acme: TenantClient) -> None:
        number = 0
        while not over.is_set():
            ids.append((await acme.send(f"busy-{number % 20}", "[[say ok]]", expires_in=60)).message_id)
            if number % 10 == 0:
                ids.append((await acme.send("weak", "[[say ok]]")).message_id)
                await desk.town.client.xadd(ACME.tasks, {"message": "bad"})
            number += 1
            await asyncio.sleep(0.01)

    async with desk.town.of() as acme:
        producers = [asyncio.create_task(produce(acme)) for _ in range(2)]
        try:
            for _ in range(6):
                ran = await desk("audit", "--json")
                assert (ran.code, ran.json) == (0, [{"tenant": "acme", "findings": []}])
                await desk("dead", "redrive", "--cause", "attempts", "--yes")
                await desk("dead", "discard", "--cause", "invalid", "--yes")
            # A real one is found in the crowd.
            await desk.town.client.hincrby(ACME.counters, "waiting", 3)
            ran = await desk("audit", "--json")
            assert (ran.code, [one["id"] for one in ran.json[0]["findings"]]) == (1, ["waiting"])
            assert (await desk("repair")).code == 3
            assert (await desk("repair", "--dry-run")).code == 1
            mended = await desk("repair", "--yes", "--json")
            assert (mended.code, len(mended.json["mended"]), mended.json["left"]) == (0, 1, [])
        finally:
            over.set()
            await asyncio.gather(*producers)
        assert len(ids) > 100
        await all_final(acme, ids, within=60)
    assert (await desk("audit", "--tenant", "all")).code == 0
    document = json.loads((await desk("audit", "-t", "all", "--json")).out)
    assert [one["tenant"] for one in document] == ["acme", "globex"]
