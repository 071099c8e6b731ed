"""Replies for readers that are no agents: one document for each delivery, whichever way it ends."""

import json
from typing import Any

import pytest

from schemas.address import QueueAddress, StreamAddress
from schemas.delivery import Cause, State
from schemas.reply import Reply
from tests.redis.broker.shorthand import add_raw, crash, give_back, sweep, take_one, with_rules
from tests.redis.broker.test_bulk import begin, expand
from tests.support.ledger import OWNER, Ledger, agent_id
from workers.bus.replies import read_replies

STREAM, QUEUE = "stream|crm|ticket 7", "queue|jobs|m1"
CRM, JOBS = StreamAddress(stream="crm"), QueueAddress(queue="jobs")


async def posted(ledger: Ledger, place: StreamAddress | QueueAddress = CRM) -> list[Reply]:
    """Oldest first."""
    return [one.reply for one in reversed(await read_replies(ledger.context, ledger.client, place, limit=100))]


async def ends(ledger: Ledger) -> list[tuple[str, State, Cause | None]]:
    return [(one.id, one.state, one.cause) for one in await posted(ledger)]


@pytest.mark.parametrize(("answers", "place"), [(STREAM, CRM), (QUEUE, JOBS)])
async def test_a_reply_is_posted_with_all_that_the_receipt_tells(
    ledger: Ledger, answers: str, place: StreamAddress | QueueAddress
) -> None:
    await ledger.send("m1", answers=answers)
    taken = await take_one(ledger)
    text = 'grüß\n"Gott"\x00 / \\'
    await ledger.settle(taken, reply=text, stop_reason="end_turn", total_tokens=42, run_id="run-1")

    (one,) = await posted(ledger, place)
    assert one == Reply(
        id="m1:1",
        message_id="m1",
        delivery_id="m1:1",
        agent=agent_id(1),
        state=State.DELIVERED,
        cause=Cause.REPLIED,
        text=text,
        stop_reason="end_turn",
        run_id="run-1",
        total_tokens=42,
        at_ms=ledger.time.now_ms,
        correlation_id="ticket 7" if place is CRM else "m1",
    )


async def test_a_reader_without_the_client_finds_json_where_the_help_says(ledger: Ledger) -> None:
    await ledger.send("m1", answers=STREAM)
    await ledger.settle(await take_one(ledger), reply="done")
    await ledger.send("m2", answers=QUEUE)
    await ledger.settle(await take_one(ledger), reply="done")

    ((_, fields),) = await ledger.client.xrange("postroom:{acme}:out:crm")
    document: dict[str, Any] = json.loads(fields[b"message"])
    assert (document["id"], document["text"], set(fields)) == ("m1:1", "done", {b"message"})
    _, popped = await ledger.client.blpop(["postroom:{acme}:callback:jobs"], timeout=1)
    assert json.loads(popped)["id"] == "m2:1"


async def test_what_goes_nowhere_is_posted_nowhere(ledger: Ledger) -> None:
    await ledger.send("m1")
    await ledger.settle(await take_one(ledger), reply="done")

    assert not await ledger.client.keys("*:out:*")
    assert not await ledger.client.keys("*:callback:*")


async def test_what_is_not_over_is_not_told(ledger: Ledger) -> None:
    await ledger.send("m1", answers=STREAM)
    await give_back(ledger, await take_one(ledger), Cause.BACKOFF)
    await give_back(ledger, await take_one(ledger), Cause.LOOKING, fate_open=True)
    assert await posted(ledger) == []
    await ledger.settle(await take_one(ledger))
    assert len(await posted(ledger)) == 1


@pytest.mark.parametrize("state", [state for state in State if state.is_final])
async def test_whoever_waits_learns_of_every_end(ledger: Ledger, state: State) -> None:
    await ledger.send("m1", answers=STREAM)
    taken = await take_one(ledger)
    await ledger.settle(taken, state, Cause.REJECTED, detail="because")
    assert await ledger.settle(taken, state, Cause.REJECTED, detail="because") == "already"

    (one,) = await posted(ledger)
    assert (one.id, one.state, one.cause, one.detail) == ("m1:1", state, Cause.REJECTED, "because")
    assert (one.text is None) == (state is not State.DELIVERED)


async def test_an_empty_reply_is_posted_with_its_why(ledger: Ledger) -> None:
    await ledger.send("m1", answers=STREAM)
    await ledger.settle(await take_one(ledger), reply="", detail="the reply is empty: the turn ended by max_steps")

    (one,) = await posted(ledger)
    assert (one.text, one.detail) == ("", "the reply is empty: the turn ended by max_steps")


async def test_an_expiry_is_told(ledger: Ledger) -> None:
    await ledger.send("m1", expires_in_ms=1_000, answers=STREAM)
    await ledger.time.advance(ms=1_000)
    await sweep(ledger)

    assert await ends(ledger) == [("m1:1", State.EXPIRED, Cause.TTL)]


async def test_a_worker_that_falls_silent_once_too_often_is_told(ledger: Ledger) -> None:
    ledger = with_rules(ledger, max_crashes=1)
    await ledger.send("m1", answers=STREAM)
    await take_one(ledger)
    await crash(ledger)

    assert await ends(ledger) == [("m1:1", State.DEAD, Cause.POISON)]


async def test_a_cancel_is_told_before_and_behind_the_dispatcher(ledger: Ledger) -> None:
    await ledger.publish("m1", answers=STREAM)
    await ledger.scripts.cancel(ledger.context, message_id="m1")
    await ledger.send("m2", answers=STREAM)
    await ledger.scripts.cancel(ledger.context, message_id="m2")
    await ledger.scripts.cancel(ledger.context, message_id="m2")

    assert await ends(ledger) == [
        ("m1", State.CANCELLED, Cause.BY_SENDER),
        ("m2:1", State.CANCELLED, Cause.BY_SENDER),
    ]
    first, _ = await posted(ledger)
    assert (first.message_id, first.delivery_id, first.agent) == ("m1", None, None)


async def test_a_refusal_at_the_dispatcher_is_told(ledger: Ledger) -> None:
    entry = await add_raw(ledger, {"message": "for nobody"})
    await ledger.scripts.refuse(
        ledger.context,
        owner=OWNER,
        entry_id=entry,
        message_id="m1",
        cause=Cause.UNKNOWN_AGENT,
        detail="nobody",
        answers=STREAM,
    )

    assert await ends(ledger) == [("m1", State.REFUSED, Cause.UNKNOWN_AGENT)]


async def test_what_is_redriven_is_told_of_again_under_the_same_id(ledger: Ledger) -> None:
    await ledger.send("m1", answers=STREAM)
    await ledger.settle(await take_one(ledger), State.DEAD, Cause.ATTEMPTS)
    ((letter, _),) = await ledger.client.xrange(ledger.keys.dead)
    await ledger.scripts.redrive(ledger.context, entry_id=letter.decode(), ttl_ms=None)
    await ledger.settle(await take_one(ledger), reply="at last")

    dead, delivered = await posted(ledger)
    assert (dead.id, dead.state, dead.text) == ("m1:1", State.DEAD, None)
    assert (delivered.id, delivered.state, delivered.text) == ("m1:1", State.DELIVERED, "at last")


async def test_each_delivery_of_a_message_to_many_is_told(ledger: Ledger) -> None:
    """Those that a cancelled bulk send had not made yet, too."""
    await begin(ledger, "m", 3, answers=STREAM)
    await expand(ledger, "m", 1)
    await ledger.settle(await take_one(ledger), reply="done")
    await ledger.scripts.cancel(ledger.context, message_id="m")
    await expand(ledger, "m")

    assert [(one, state) for one, state, _ in await ends(ledger)] == [
        ("m:1", State.DELIVERED),
        ("m:2", State.CANCELLED),
        ("m:3", State.CANCELLED),
    ]


async def test_where_replies_are_gathered_each_alone_is_not_posted(ledger: Ledger) -> None:
    await begin(ledger, "m", 2, answers=STREAM, gather_want=2, gather_within_ms=1_000)
    await expand(ledger, "m")
    for taken in (await ledger.take()).taken:
        await ledger.settle(taken, reply="done")

    assert await posted(ledger) == []


async def test_the_newest_are_read_first_and_stay(ledger: Ledger) -> None:
    for answers in (STREAM, QUEUE):
        for number in range(3):
            await ledger.send(f"{answers[0]}{number}", answers=answers)
            await ledger.settle(await take_one(ledger), reply=str(number))

    for place in (CRM, JOBS):
        for _ in range(2):
            found = await read_replies(ledger.context, ledger.client, place, limit=2)
            assert [one.reply.text for one in found] == ["2", "1"]
            assert all((one.entry_id is None) == (place is JOBS) for one in found)
    assert await read_replies(ledger.context, ledger.client, StreamAddress(stream="other"), limit=2) == []


async def test_a_queue_that_nobody_reads_goes_with_the_receipts(ledger: Ledger) -> None:
    await ledger.send("m1", answers=QUEUE)
    await ledger.settle(await take_one(ledger), reply="done")

    left: int = await ledger.client.pttl("postroom:{acme}:callback:jobs")
    assert ledger.rules.kept_ms - 60_000 < left <= ledger.rules.kept_ms


async def test_a_stream_that_nobody_reads_is_capped_by_age(ledger: Ledger) -> None:
    stream = "postroom:{acme}:out:crm"
    for number in range(300):
        await ledger.client.xadd(stream, {"message": "old"}, id=f"{number + 1}-0")
    await ledger.send("m1", answers=STREAM)
    await ledger.settle(await take_one(ledger), reply="done")

    assert await ledger.client.xlen(stream) < 150


async def test_a_reply_whose_id_is_taken_does_not_vanish_quietly(ledger: Ledger) -> None:
    await ledger.publish("r1", "something else")
    await ledger.send("m1")
    taken = await take_one(ledger)
    await ledger.settle(taken, reply="done", forward_id="r1", forward_digest="d", forward_envelope="{}")

    assert await ledger.state("m1:1") == "delivered"
    assert await ledger.field("m1:1", "reply_message") is None
    assert "r1 is another message's" in (await ledger.field("m1:1", "detail") or "")
