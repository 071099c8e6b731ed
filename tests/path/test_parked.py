"""An agent that cannot be helped is parked and named, the others go on, and nothing that waited for it is lost."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from console.sandbox.behaviour import Behaviour
from schemas.delivery import Cause, State
from tests.path.test_dead import Desk
from tests.support.redis_server import RedisServer
from tests.support.shell import Cli
from tests.support.town import all_final, town
from tests.support.waiting import until
from workers.broker import keys

ACME = keys.TenantKeys("acme")


@pytest.fixture
async def desk(server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    cli = Cli(tmp_path, monkeypatch)
    cli.set(POSTROOM_REDIS_URL=server.url, POSTROOM_TENANT="acme", POSTROOM_ACCEPT_LOSS="true")
    async with town(server, tmp_path, max_attempts=1, park_after=2) as opened:
        cli.set(LETTA_BASE_URL=opened.sandbox.base_url)
        yield Desk(opened, cli)


async def test_a_broken_history_parks_its_agent_until_somebody_mends_it(desk: Desk) -> None:
    broken = desk.town.add_agent("writer", broken_history_times=-1)
    desk.town.add_agent("reader")
    async with desk.town.of() as acme:
        first = await acme.send("writer", "[[say one]] first")
        second = await acme.send("writer", "[[say two]] second")
        await until(lambda: desk.town.client.hexists(ACME.parked, broken.id), within=20)
        other = await acme.send("reader", "[[say fine]] hello")
        [fine] = await all_final(acme, [other.message_id])
        assert fine.state is State.DELIVERED

        [waits] = (await acme.receipt(first.message_id)).deliveries
        assert (waits.state, waits.cause, waits.attempts) == (State.WAITING, Cause.PARKED, 0)
        assert "No tool output found for function call" in (waits.detail or "")
        shown = await desk.json("agent", "show", "writer")
        assert (shown["name"], shown["parked"]["by"], shown["waiting"]) == ("writer", "worker", 2)
        assert [one["cause"] for one in shown["first_waiting"]] == ["parked", "parked"]
        rows = {row["name"]: row for row in await desk.json("get", "agents")}
        assert "No tool output found" in rows["writer"]["parked_why"]
        assert rows["reader"]["parked_why"] is None
        assert "parked: " in (await desk("get", "agents")).out
        checks = [one for one in (await desk.json("doctor"))["checks"] if one["name"] == "parked"]
        assert [(one["level"], one["found"].startswith("writer of acme, by worker: ")) for one in checks] == [
            ("warn", True)
        ]
        assert (await desk("describe", "message", first.message_id)).code == 0
        assert (await desk("audit")).code == 0

        broken.behaviour = Behaviour()
        ran = await desk("agent", "unpark", "writer")

        assert (ran.code, ran.out.strip()) == (0, "writer goes on")
        receipts = await all_final(acme, [first.message_id, second.message_id])
    assert [(receipt.state, receipt.reply) for receipt in receipts] == [
        (State.DELIVERED, "one"),
        (State.DELIVERED, "two"),
    ]
    assert (await desk("audit")).code == 0


async def test_dead_letters_in_a_row_park_the_agent_and_all_are_let_go_together(desk: Desk) -> None:
    agent = desk.town.add_agent("writer", fail_status=500, fail_where="letta")
    async with desk.town.of() as acme:
        for number in range(2):
            [receipt] = await all_final(acme, [(await acme.send("writer", f"number {number}")).message_id])
            assert receipt.state is State.DEAD
        third = await acme.send("writer", "[[say three]] the third")
        await until(lambda: desk.town.client.zcard(ACME.mailbox(agent.id)), within=20)
        shown = await desk.json("agent", "show", "writer")
        assert (shown["failures_in_a_row"], shown["waiting"]) == (2, 1)
        assert [one["state"] for one in shown["last_ends"]] == ["dead", "dead"]

        agent.behaviour = Behaviour()
        assert [one["result"] for one in await desk.json("agent", "unpark", "--all")] == ["unparked"]

        [receipt] = await all_final(acme, [third.message_id])
    assert receipt.reply == "three"
    assert (await desk.json("agent", "show", "writer"))["failures_in_a_row"] == 0


async def test_a_person_parks_an_agent_and_is_named(desk: Desk) -> None:
    agent = desk.town.add_agent("writer")
    assert (await desk("agent", "park", "nobody")).code == 4
    assert (await desk("agent", "unpark")).code == 2
    ran = await desk("agent", "park", "writer", "--why", "it answers in French")
    assert (ran.code, ran.out.startswith("writer is parked;")) == (0, True)
    assert "parked already" in (await desk("agent", "park", agent.id)).out
    async with desk.town.of() as acme:
        sent = await acme.send("writer", "[[say bonjour]] hello")
        await until(lambda: desk.town.client.zcard(ACME.mailbox(agent.id)), within=20)
        shown = (await desk("agent", "show", "writer")).out
        assert "it answers in French" in shown
        assert "by cli:" in shown
        assert desk.town.turns(agent) == []
        await desk("agent", "unpark", "writer")
        [receipt] = await all_final(acme, [sent.message_id])
    assert receipt.state is State.DELIVERED
    assert "was not parked" in (await desk("agent", "unpark", "writer")).out
