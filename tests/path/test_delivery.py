"""From the front door to the agent and back, through every part, on a real Redis and the sandbox Letta."""

import itertools
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from console.sandbox.nouns import Tool
from schemas.context import Operator
from schemas.delivery import Cause, State
from schemas.tenant import Limits
from tests.support.redis_server import RedisServer
from tests.support.town import OPERATOR, Town, all_final, town
from tests.support.waiting import until
from workers.broker import keys
from workers.bus.client import TenantClient
from workers.errors import RefusedError

LLM_TRIES = 3
"""A Letta server asks its model so often before it reports a failure (LETTA.md section 5)."""


async def test_a_message_becomes_one_turn_and_its_reply_comes_back(acme_town: Town) -> None:
    agent = acme_town.add_agent("echo")
    async with acme_town.of() as acme:
        receipt = await acme.ask("echo", "[[say well received]]", within=10)

    assert receipt.state is State.DELIVERED
    assert receipt.reply == "well received"
    delivery = receipt.deliveries[0]
    assert (delivery.agent, delivery.agent_name) == (agent.id, "echo")
    assert delivery.attempts == 1
    assert delivery.run_id
    assert delivery.total_tokens
    assert delivery.stop_reason == "end_turn"
    assert [step.state for step in delivery.history] == [State.WAITING, State.RUNNING, State.DELIVERED]
    assert receipt.accepted_at_ms <= delivery.delivered_at_ms <= delivery.read_at_ms  # type: ignore[operator]
    assert len(acme_town.turns(agent)) == 1


async def test_an_xadd_from_any_language_is_enough(acme_town: Town) -> None:
    acme_town.add_agent("researcher")
    entry = await acme_town.client.xadd(
        "postroom:{acme}:tasks", {"message": '{"to":{"agent":"researcher"},"content":"[[say found]]"}'}
    )
    async with acme_town.of() as acme:
        record = keys.TenantKeys("acme").message(f"x{entry.decode()}")
        await until(lambda: acme_town.client.exists(record))
        receipt = await acme.wait(f"x{entry.decode()}", within=10)

    assert receipt.reply == "found"


async def test_messages_to_one_agent_arrive_in_order_one_at_a_time(acme_town: Town) -> None:
    agent = acme_town.add_agent("slow", latency_seconds=0.005)
    async with acme_town.of() as acme:
        sent = [await acme.send("slow", f"[[say ok]] number {number}") for number in range(40)]
        await all_final(acme, [one.message_id for one in sent])

    assert [turn["content_head"] for turn in acme_town.turns(agent)] == [f"[[say ok]] number {n}" for n in range(40)]
    assert acme_town.sandbox.world.agent(agent.id).gate.most_running == 1


async def test_an_urgent_message_overtakes_what_waits(acme_town: Town) -> None:
    agent = acme_town.add_agent("slow", latency_seconds=0.15)
    async with acme_town.of() as acme:
        ids = [(await acme.send("slow", f"normal {number}")).message_id for number in range(4)]
        ids.append((await acme.send("slow", "urgent", priority="urgent")).message_id)
        await all_final(acme, ids)

    order = [turn["content_head"] for turn in acme_town.turns(agent)]
    assert order.index("urgent") <= 1
    assert [text for text in order if text != "urgent"] == [f"normal {n}" for n in range(4)]


async def test_what_expires_while_it_waits_is_never_called(acme_town: Town) -> None:
    agent = acme_town.add_agent("slow", latency_seconds=0.6)
    async with acme_town.of() as acme:
        first = await acme.send("slow", "first")
        second = await acme.send("slow", "second", expires_in=0.2)
        expired = await acme.wait(second.message_id, within=5)
        await acme.wait(first.message_id, within=5)

    assert (expired.state, expired.cause) == (State.EXPIRED, Cause.TTL)
    assert [turn["content_head"] for turn in acme_town.turns(agent)] == ["first"]


async def test_a_message_waits_for_its_time(acme_town: Town) -> None:
    agent = acme_town.add_agent("later")
    due = datetime.now(UTC) + timedelta(seconds=0.6)
    async with acme_town.of() as acme:
        sent = await acme.send("later", "in a while", not_before=due)
        receipt = await acme.wait(sent.message_id, within=5)

    assert receipt.state is State.DELIVERED
    assert acme_town.turns(agent)[0]["at"] >= due.timestamp() * 1000 - 1
    assert receipt.deliveries[0].history[0].cause is Cause.NOT_BEFORE


async def test_a_busy_agent_gets_its_message_later_and_no_attempt_is_spent(acme_town: Town) -> None:
    acme_town.add_agent("busy", busy_times=1)
    async with acme_town.of() as acme:
        receipt = await acme.ask("busy", "[[say at last]]", within=20)

    assert receipt.reply == "at last"
    assert receipt.deliveries[0].attempts == 1
    assert Cause.BUSY in {step.cause for step in receipt.deliveries[0].history}


async def test_a_failing_agent_is_tried_so_often_and_then_is_a_dead_letter(acme_town: Town) -> None:
    agent = acme_town.add_agent("broken", fail_status=500, fail_where="llm")
    async with acme_town.of() as acme:
        receipt = await acme.ask("broken", "hello", within=20)

    assert (receipt.state, receipt.cause) == (State.DEAD, Cause.ATTEMPTS)
    assert receipt.deliveries[0].attempts == 5
    assert receipt.detail
    assert len(acme_town.turns(agent)) <= 5
    letters = await acme_town.client.xrange(keys.TenantKeys("acme").dead)
    assert [fields[b"delivery"].decode() for _, fields in letters] == [f"{receipt.message_id}:1"]


async def test_a_failure_that_passes_is_tried_again(acme_town: Town) -> None:
    acme_town.add_agent("shaky", fail_status=500, fail_times=2 * LLM_TRIES, fail_where="llm")
    async with acme_town.of() as acme:
        receipt = await acme.ask("shaky", "[[say recovered]]", within=20)

    assert receipt.reply == "recovered"
    assert receipt.deliveries[0].attempts == 3


async def test_a_quota_pauses_as_long_as_it_says_and_no_attempt_is_spent(acme_town: Town) -> None:
    agent = acme_town.add_agent("limited", fail_status=429, fail_times=1, retry_after_seconds=1)
    async with acme_town.of() as acme:
        receipt = await acme.ask("limited", "[[say through]]", within=20)

    assert receipt.reply == "through"
    assert receipt.deliveries[0].attempts == 1
    begun = [step.at_ms for step in receipt.deliveries[0].history if step.state is State.RUNNING]
    assert begun[1] - begun[0] >= 1000
    assert len(acme_town.turns(agent)) == 1


async def is_parked(client: TenantClient, message_id: str) -> bool:
    return (await client.receipt(message_id)).cause is Cause.APPROVAL


async def test_an_agent_that_awaits_approval_parks_its_mailbox_and_says_so(acme_town: Town) -> None:
    guarded = acme_town.add_agent("guarded")
    acme_town.sandbox.world.add_tool(
        Tool("tool-1", "launch", "custom", "Launches.", {"name": "launch"}, requires_approval=True)
    )
    guarded.tool_rules.append({"type": "requires_approval", "tool_name": "launch"})
    guarded.tool_ids.append("tool-1")
    async with acme_town.of() as acme:
        first = await acme.ask("guarded", "[[tool launch {}]]", within=10)
        assert first.deliveries[0].stop_reason == "requires_approval"
        second = await acme.send("guarded", "are you there?")
        await until(lambda: is_parked(acme, second.message_id))
        parked = await acme.receipt(second.message_id)

    assert parked.state is State.WAITING
    assert parked.deliveries[0].attempts == 0
    assert len(acme_town.turns(guarded)) == 1


async def test_a_reply_is_sent_on_to_another_agent(acme_town: Town) -> None:
    acme_town.add_agent("first")
    second = acme_town.add_agent("second")
    async with acme_town.of() as acme:
        sent = await acme.send("first", "[[say passed on]]", reply_to="second")
        receipt = await acme.wait(sent.message_id, within=10)
        onward = receipt.deliveries[0].reply_message_id
        assert onward
        await acme.wait(onward, within=10)

    assert [turn["content_head"] for turn in acme_town.turns(second)] == ["passed on"]


async def test_agents_that_answer_each_other_for_ever_are_stopped_at_the_hop_limit(acme_town: Town) -> None:
    ping = acme_town.add_agent("ping")
    pong = acme_town.add_agent("pong")
    async with acme_town.of() as acme:
        document = {"to": {"agent": "ping"}, "content": "go", "reply_to": {"agent": "pong"}, "hops": 7}
        sent = await acme.publish(document)
        first = await acme.wait(sent.message_id, within=10)
        onward = first.deliveries[0].reply_message_id
        assert onward
        stopped = await acme.wait(onward, within=10)

    assert (stopped.state, stopped.cause) == (State.REFUSED, Cause.LOOP)
    assert len(acme_town.turns(ping)) == 1
    assert acme_town.turns(pong) == []


@pytest.mark.parametrize("address", ["theirs", "nobody"])
async def test_another_tenants_agent_and_no_agent_are_the_same_answer(acme_town: Town, address: str) -> None:
    theirs = acme_town.add_agent("theirs", "globex")
    async with acme_town.of() as acme:
        receipt = await acme.ask(address, "hello", within=10)
        by_id = await acme.ask(theirs.id, "hello", within=10)

    assert (receipt.state, receipt.cause) == (by_id.state, by_id.cause) == (State.REFUSED, Cause.UNKNOWN_AGENT)
    assert receipt.detail == by_id.detail
    assert acme_town.turns(theirs) == []


async def test_a_bad_entry_is_kept_with_its_bytes_and_does_not_hold_up_the_good_ones(acme_town: Town) -> None:
    acme_town.add_agent("echo")
    tasks = "postroom:{acme}:tasks"
    bad = [b"\xff\xfe", b"{", b"[]", b'{"to":1,"content":2}', b'{"a":' * 5000 + b"1" + b"}" * 5000]
    for raw in bad:
        await acme_town.client.xadd(tasks, {"message": raw})
    await acme_town.client.xadd(tasks, {"no": "message"})
    async with acme_town.of() as acme:
        receipt = await acme.ask("echo", "[[say still here]]", within=10)

    assert receipt.reply == "still here"
    letters = await acme_town.client.xrange(keys.TenantKeys("acme").dead)
    assert [fields[b"raw"] for _, fields in letters] == [*bad, b"no message"]
    assert {fields[b"cause"] for _, fields in letters} == {b"invalid"}
    assert await acme_town.client.xlen(tasks) == 0


async def test_a_cancelled_message_is_never_delivered(acme_town: Town) -> None:
    agent = acme_town.add_agent("slow", latency_seconds=0.4)
    async with acme_town.of() as acme:
        first = await acme.send("slow", "first")
        second = await acme.send("slow", "second")
        cancelled = await acme.cancel(second.message_id)
        await acme.wait(first.message_id, within=10)

    assert (cancelled.state, cancelled.cause) == (State.CANCELLED, Cause.BY_SENDER)
    assert [turn["content_head"] for turn in acme_town.turns(agent)] == ["first"]


async def test_a_suspended_tenant_waits_and_goes_on_when_resumed(acme_town: Town) -> None:
    agent = acme_town.add_agent("echo")
    await acme_town.tenants.suspend(OPERATOR, "acme", suspended=True)
    await acme_town.client.xadd("postroom:{acme}:tasks", {"message": '{"id":"m1","to":{"agent":"echo"},"content":"x"}'})
    acme_town.add_agent("other", "globex")
    async with acme_town.of("globex") as globex, acme_town.of() as acme:
        assert (await globex.ask("other", "[[say free]]", within=10)).reply == "free"
        assert acme_town.turns(agent) == []
        await acme_town.tenants.suspend(Operator("test"), "acme", suspended=False)
        await until(lambda: acme_town.turns(agent))
        assert (await acme.wait("m1", within=10)).state is State.DELIVERED


async def test_no_window_holds_more_than_allowed_and_nearly_all_of_it_is_used(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pool processes' worth of drains under pressure, a window of two seconds, measured at the server."""
    monkeypatch.setattr("workers.broker.rules.RATE_WINDOW_MS", 2_000)
    allowed = 40
    async with town(server, tmp_path) as here:
        await here.tenants.change_limits(OPERATOR, "acme", Limits(per_minute=allowed))
        for number in range(10):
            here.add_agent(f"agent-{number}")
        began = time.monotonic()
        async with here.of() as acme:
            ids = [(await acme.send(f"agent-{n % 10}", f"[[say ok]] {n}")).message_id for n in range(3 * allowed)]
            await all_final(acme, ids, within=30)
        took = time.monotonic() - began

    begun = sorted(turn["at"] for turn in here.turns())
    for first, beyond in zip(begun, begun[allowed:], strict=False):
        assert beyond - first >= 2_000
    # The first window's worth goes at once; the other two take a window and its pad, of a second, each.
    assert took <= 2 * 3.0 / 0.95 + 1


async def test_a_quiet_tenant_is_not_delayed_by_a_noisy_one(server: RedisServer, tmp_path: Path) -> None:
    async with town(server, tmp_path, standard_turns=8) as here:
        for number in range(30):
            here.add_agent(f"noisy-{number}", latency_seconds=0.3)
        quiet = here.add_agent("quiet", "globex")
        async with here.of() as acme, here.of("globex") as globex:
            for number, _ in itertools.product(range(30), range(8)):
                await acme.send(f"noisy-{number}", "flood")
            waits = []
            for _ in range(5):
                began = time.monotonic()
                receipt = await globex.ask("quiet", "[[say here]]", within=10)
                waits.append(time.monotonic() - began)
                assert receipt.reply == "here"

    assert max(waits) < 1.0
    assert len(here.turns(quiet)) == 5


async def test_a_wrong_name_holds_up_nobody_else(acme_town: Town) -> None:
    """The list of agents is read again for it, at most once a second; the good ones do not wait for that."""
    acme_town.add_agent("echo")
    async with acme_town.of() as acme:
        await acme.ask("echo", "warm", within=10)
        wrong = [await acme.send(f"nobody-{number}", "x") for number in range(5)]
        began = time.monotonic()
        receipt = await acme.ask("echo", "[[say at once]]", within=10)
        took = time.monotonic() - began
        refused = await all_final(acme, [one.message_id for one in wrong])

    assert receipt.reply == "at once"
    assert took < 0.5
    assert {one.cause for one in refused} == {Cause.UNKNOWN_AGENT}


async def test_an_agent_made_a_moment_before_its_first_messages_gets_them_in_order(acme_town: Town) -> None:
    acme_town.add_agent("old")
    async with acme_town.of() as acme:
        await acme.ask("old", "warm", within=10)
        agent = acme_town.add_agent("new")
        ids = [
            (await acme.send(address, f"[[say ok]] {number}")).message_id
            for number, address in enumerate(["new", agent.id, "new", agent.id])
        ]
        receipts = await all_final(acme, ids)

    assert {receipt.state for receipt in receipts} == {State.DELIVERED}
    assert [turn["content_head"] for turn in acme_town.turns(agent)] == [f"[[say ok]] {n}" for n in range(4)]


async def test_what_has_expired_is_refused_when_it_is_published(acme_town: Town) -> None:
    acme_town.add_agent("echo")
    past = datetime.now(UTC) - timedelta(seconds=5)
    async with acme_town.of() as acme:
        with pytest.raises(RefusedError, match="expires_at: has passed"):
            await acme.publish({"to": {"agent": "echo"}, "content": "x", "expires_at": past})

    assert await acme_town.client.zcard(keys.TenantKeys("acme").messages) == 0
