"""Cancel: it either wins, or came too late; never both."""

from schemas.delivery import Cause, State
from tests.redis.broker.shorthand import (
    add_raw,
    crash,
    events,
    give_back,
    letters,
    record,
    refuse,
    sweep,
    take_one,
)
from tests.support.ledger import Ledger, agent_id
from workers.broker.results import Cancelled


async def cancel(ledger: Ledger, message_id: str = "m1") -> Cancelled:
    return await ledger.scripts.cancel(ledger.context, message_id=message_id)


async def test_what_nobody_knows_cannot_be_cancelled(ledger: Ledger) -> None:
    assert await cancel(ledger) == Cancelled(found=False, results=())


async def test_what_is_still_on_the_stream_is_taken_off_it(ledger: Ledger) -> None:
    await ledger.publish("m1")
    await ledger.publish("m2")

    answer = await cancel(ledger)

    assert answer.results == (("m1", "cancelled"),)
    assert await ledger.client.xlen(ledger.keys.tasks) == 1
    found = await record(ledger, "m1")
    assert (found["state"], found["cause"], found["ended_at"]) == ("cancelled", "by_sender", str(ledger.time.now_ms))
    assert (await ledger.counters()) == {"accepted": 1, "cancelled": 1, "bytes": 5}
    assert (await events(ledger))[-1] == ("m1", "cancelled", "by_sender")


async def test_what_waits_is_taken_out_of_its_mailbox(ledger: Ledger) -> None:
    """And what stood behind it can go."""
    await ledger.send("m1")
    await ledger.send("m2")

    assert (await cancel(ledger)).results == (("m1:1", "cancelled"),)

    assert await ledger.state("m1:1") == "cancelled"
    assert await ledger.take_ids() == ["m2:1"]
    assert await letters(ledger) == []


async def test_what_waits_for_its_time_is_taken_off_the_clock(ledger: Ledger) -> None:
    await ledger.send("m1", not_before_in_ms=5_000, expires_in_ms=9_000)

    assert (await cancel(ledger)).results == (("m1:1", "cancelled"),)

    assert await ledger.field("m1:1", "due") is None
    assert await ledger.client.exists(ledger.keys.later) == 0
    await ledger.time.advance(ms=5_000)
    assert await ledger.take_ids() == []


async def test_a_turn_that_runs_is_too_late(ledger: Ledger) -> None:
    """It goes on and ends as if nobody had asked."""
    await ledger.send("m1")
    taken = await take_one(ledger)

    assert (await cancel(ledger)).results == (("m1:1", "running"),)

    assert await ledger.settle(taken) == "settled"
    assert await ledger.state("m1:1") == "delivered"


async def test_a_call_that_may_have_reached_the_agent_is_too_late(ledger: Ledger) -> None:
    """It waits, but nobody can say that it did not happen."""
    await ledger.send("m1")
    await ledger.take()
    await crash(ledger)

    assert (await cancel(ledger)).results == (("m1:1", "running"),)
    assert await ledger.state("m1:1") == "waiting"


async def test_a_failure_the_server_reported_may_be_cancelled(ledger: Ledger) -> None:
    """No turn of it has run and none is running."""
    await ledger.send("m1")
    taken = await take_one(ledger)
    await give_back(ledger, taken, Cause.BACKOFF, due_in_ms=5_000)

    assert (await cancel(ledger)).results == (("m1:1", "cancelled"),)

    assert await ledger.settle(taken) == "already"
    assert await ledger.state("m1:1") == "cancelled"


async def test_what_has_ended_is_too_late(ledger: Ledger) -> None:
    await ledger.send("m1")
    await ledger.settle(await take_one(ledger))
    assert (await cancel(ledger)).results == (("m1:1", "delivered"),)

    await ledger.publish("m2")
    assert (await cancel(ledger, "m2")).results == (("m2", "cancelled"),)
    assert (await cancel(ledger, "m2")).results == (("m2", "cancelled"),)
    assert (await ledger.counters())["cancelled"] == 1

    entry = await add_raw(ledger, {"message": "bad"})
    await refuse(ledger, entry, "m3")
    assert (await cancel(ledger, "m3")).results == (("m3", "refused"),)


async def test_each_delivery_is_cancelled_or_too_late(ledger: Ledger) -> None:
    """One message for several agents: those whose turn has not begun are spared."""
    await ledger.send("m1", *(agent_id(number) for number in (1, 2, 3)))
    first, second = (await ledger.take(2)).taken
    await ledger.settle(first)

    answer = await cancel(ledger)

    assert answer.results == (("m1:1", "delivered"), ("m1:2", "running"), ("m1:3", "cancelled"))
    assert (await record(ledger, "m1"))["state"] == "open"
    await ledger.settle(second, State.DELIVERED)
    assert (await record(ledger, "m1"))["state"] == "ended"


async def test_what_stood_behind_a_cancelled_one_is_told_to_whoever_cancelled(ledger: Ledger) -> None:
    """The first backed off, the second waited behind it, and no time will bring a drain any more."""
    await ledger.send("m1")
    await ledger.send("m2")
    await give_back(ledger, await take_one(ledger), Cause.BACKOFF, due_in_ms=60_000)
    assert await ledger.take_ids() == []

    assert (await cancel(ledger)).next_look_ms == ledger.time.now_ms

    assert (await sweep(ledger))[1] == {"standard"}
    assert await ledger.take_ids() == ["m2:1"]
