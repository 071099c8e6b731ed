"""Receipts: what keeps a waiting delivery now, and the times of its turn, on every path."""

from dataclasses import dataclass

import pytest

from schemas.delivery import Cause, State, Taken
from schemas.envelope import Priority
from schemas.receipt import DeliveryReceipt, Receipt
from tests.support.ledger import Ledger, agent_id
from workers.bus.receipts import read_receipt


async def receipt(ledger: Ledger, message_id: str = "m1") -> Receipt:
    return await read_receipt(ledger.context, ledger.client, message_id)


async def told(ledger: Ledger, message_id: str = "m1") -> DeliveryReceipt:
    """The message's only delivery."""
    (one,) = (await receipt(ledger, message_id)).deliveries
    return one


async def kept(ledger: Ledger, message_id: str = "m1") -> tuple[Cause | None, int | None]:
    """What keeps it, and for how long."""
    one = await told(ledger, message_id)
    assert one.state is State.WAITING
    return one.cause, None if one.due_at_ms is None else one.due_at_ms - ledger.time.now_ms


async def take_one(ledger: Ledger) -> Taken:
    (taken,) = (await ledger.take(1)).taken
    return taken


async def named(ledger: Ledger, taken: Taken, run_id: str) -> None:
    await ledger.scripts.record_run(
        ledger.context, delivery_id=taken.id, agent=taken.agent, token=taken.token, run_id=run_id
    )


async def test_what_nothing_keeps_says_so(ledger: Ledger) -> None:
    await ledger.send("m1", teams=("red", "blue"))  # type: ignore[arg-type]

    one = await told(ledger)
    assert (one.state, one.cause, one.due_at_ms) == (State.WAITING, None, None)
    assert one.teams == ("red", "blue")


async def test_word_of_a_server_that_is_away_while_it_is_new(ledger: Ledger) -> None:
    """For what nothing else keeps; and it keeps nothing from going where another worker reaches the server."""
    await ledger.send("m1")
    await ledger.send("m2")
    await ledger.scripts.note_away(ledger.context, for_ms=600_000)

    assert (await told(ledger)).cause is Cause.SERVER_AWAY
    assert (await told(ledger)).due_at_ms is None
    assert (await kept(ledger, "m2"))[0] is Cause.BEHIND
    assert await ledger.take_ids() == ["m1:1"]
    await ledger.client.hset(ledger.keys.holds, "~", f"{ledger.time.now_ms}|server_away")
    assert (await kept(ledger, "m2"))[0] is Cause.BEHIND


async def test_before_its_time(ledger: Ledger) -> None:
    await ledger.send("m1", not_before_in_ms=60_000)

    assert await kept(ledger) == (Cause.NOT_BEFORE, 60_000)


async def test_its_own_backoff_until_it_is_over(ledger: Ledger) -> None:
    """Once its pause has passed it no longer says that it is in one."""
    await ledger.send("m1")
    await ledger.settle(await take_one(ledger), State.WAITING, Cause.BACKOFF, due_in_ms=60_000, detail="503")
    assert await kept(ledger) == (Cause.BACKOFF, 60_000)
    await ledger.client.hset(ledger.keys.delivery("m1:1"), "due", 1)

    one = await told(ledger)
    assert (one.cause, one.detail) == (None, "503")


@pytest.mark.parametrize("cause", [Cause.BUSY, Cause.APPROVAL, Cause.THROTTLED, Cause.BACKOFF])
async def test_its_agents_hold(ledger: Ledger, cause: Cause) -> None:
    """Of whatever message it came; those behind are kept by it, too."""
    await ledger.send("m1")
    await ledger.send("m2")
    await ledger.settle(await take_one(ledger), State.WAITING, cause, hold="agent", hold_ms=60_000)

    assert await kept(ledger) == (cause, 60_000)
    assert await kept(ledger, "m2") == (cause, 60_000)


async def test_the_longer_of_two_pauses(ledger: Ledger) -> None:
    await ledger.send("m1")
    taken = await take_one(ledger)
    await ledger.settle(taken, State.WAITING, Cause.BACKOFF, due_in_ms=60_000)
    holds = ledger.keys.holds
    await ledger.client.hset(holds, taken.agent, f"{ledger.time.now_ms + 30_000}|busy")
    assert await kept(ledger) == (Cause.BACKOFF, 60_000)
    await ledger.client.hset(holds, taken.agent, f"{ledger.time.now_ms + 90_000}|busy")
    assert await kept(ledger) == (Cause.BUSY, 90_000)


async def test_the_rate_of_its_agent_or_tenant(ledger: Ledger) -> None:
    await ledger.register(agent_per_minute=1)
    await ledger.send("m1")
    await ledger.send("m2")
    await ledger.settle(await take_one(ledger))
    await ledger.take()
    cause, left = await kept(ledger, "m2")
    assert cause is Cause.RATE_AGENT
    assert 0 < (left or 0) <= 62_000
    await ledger.register(per_minute=1)
    await ledger.send("m3", agent_id(2))
    await ledger.take()
    assert (await kept(ledger, "m3"))[0] is Cause.RATE_TENANT


async def test_a_suspended_tenant_before_everything_else(ledger: Ledger) -> None:
    """Of what is still on the stream, too."""
    await ledger.send("m1", not_before_in_ms=60_000)
    await ledger.publish("m2")
    assert (await receipt(ledger, "m2")).cause is None
    await ledger.client.hset(ledger.keys.tenant, "suspended", 1)

    assert await kept(ledger) == (Cause.SUSPENDED, None)
    waiting = await receipt(ledger, "m2")
    assert (waiting.state, waiting.cause) == (State.ACCEPTED, Cause.SUSPENDED)


async def test_a_stream_that_rests_because_the_tenants_bytes_are_used_up(ledger: Ledger) -> None:
    await ledger.publish("m1")
    await ledger.client.hset(ledger.keys.holds, ">", f"{ledger.time.now_ms + 60_000}|full")

    assert (await receipt(ledger)).cause is Cause.FULL


async def test_a_paused_message_but_not_what_is_looked_after(ledger: Ledger) -> None:
    await ledger.send("m1", agent_id(1), agent_id(2))
    cut = await take_one(ledger)
    await ledger.settle(cut, State.WAITING, Cause.LOOKING, fate_open=True)
    await ledger.scripts.pause(ledger.context, message_id="m1")

    first, second = (await receipt(ledger)).deliveries
    assert (first.cause, second.cause) == (Cause.LOOKING, Cause.PAUSED)
    await ledger.scripts.resume(ledger.context, message_id="m1")
    assert [one.cause for one in (await receipt(ledger)).deliveries] == [Cause.LOOKING, None]


async def test_a_parked_agent(ledger: Ledger) -> None:
    await ledger.send("m1")
    await ledger.client.hset(ledger.keys.parked, agent_id(1), f"{ledger.time.now_ms}|operator|broken history")

    assert (await kept(ledger))[0] is Cause.PARKED
    await ledger.client.delete(ledger.keys.parked)


async def test_behind_the_agents_turn_and_behind_another_message(ledger: Ledger) -> None:
    await ledger.send("m1")
    await ledger.send("m2")
    assert await kept(ledger, "m2") == (Cause.BEHIND, None)
    taken = await take_one(ledger)
    assert await kept(ledger, "m2") == (Cause.BEHIND, None)
    await ledger.send("m3", priority=Priority.URGENT)
    await ledger.settle(taken)

    assert await kept(ledger, "m3") == (None, None)
    assert await kept(ledger, "m2") == (Cause.BEHIND, None)


async def test_as_many_turns_as_the_tenant_may_have(ledger: Ledger) -> None:
    await ledger.register(in_flight=1)
    await ledger.send("m1")
    await ledger.send("m2", agent_id(2))
    await take_one(ledger)

    assert await kept(ledger, "m2") == (Cause.IN_FLIGHT, None)


async def test_one_look_for_all_the_deliveries_of_a_message(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    await ledger.send("m1", *(agent_id(number) for number in range(1, 21)))
    few = await _round_trips(ledger, monkeypatch)
    await ledger.send("m2", *(agent_id(number) for number in range(21, 24)))

    assert few.number == (await _round_trips(ledger, monkeypatch, "m2")).number


@dataclass
class Trips:
    number: int = 0


async def _round_trips(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, message_id: str = "m1") -> Trips:
    trips, pipeline, execute = Trips(), ledger.client.pipeline, ledger.client.execute_command

    def counted_pipeline(*arguments: object, **options: object) -> object:
        trips.number += 1
        return pipeline(*arguments, **options)

    async def counted_command(*arguments: object, **options: object) -> object:
        trips.number += 1
        return await execute(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ledger.client, "pipeline", counted_pipeline)
        patch.setattr(ledger.client, "execute_command", counted_command)
        await receipt(ledger, message_id)
    return trips


# The times of a turn


async def test_delivered_is_when_the_server_took_the_turn_and_read_is_when_it_ended(ledger: Ledger) -> None:
    await ledger.send("m1")
    taken = await take_one(ledger)
    await ledger.time.advance(ms=100)
    await named(ledger, taken, "run-1")
    took_ms = ledger.time.now_ms
    await ledger.time.advance(ms=400)
    await ledger.settle(taken, reply="done", stop_reason="end_turn", run_id="run-1", total_tokens=7)

    one = await told(ledger)
    assert (one.delivered_at_ms, one.read_at_ms, one.ended_at_ms) == (took_ms, took_ms + 400, took_ms + 400)
    assert (one.run_id, one.total_tokens, one.cause) == ("run-1", 7, Cause.REPLIED)


async def test_a_run_that_is_named_again_was_taken_when_it_was_named_first(ledger: Ledger) -> None:
    """The first worker falls silent; the next one joins the call, and hears the same id."""
    await ledger.send("m1")
    await named(ledger, await take_one(ledger), "run-1")
    took_ms = ledger.time.now_ms
    await ledger.time.advance(seconds=20)
    again = await take_one(ledger)
    await named(ledger, again, "run-1")
    await ledger.settle(again, reply="done", run_id="run-1")

    assert (await told(ledger)).delivered_at_ms == took_ms


async def test_a_cut_call_that_named_its_run_was_taken_then(ledger: Ledger) -> None:
    """Though Redis was away when the run was to be stored; whoever finds its end knows no earlier time."""
    await ledger.send("m1")
    cut = await take_one(ledger)
    await ledger.settle(cut, State.WAITING, Cause.LOOKING, fate_open=True, run_id="run-1")
    took_ms = ledger.time.now_ms
    await ledger.time.advance(seconds=5)
    found = await take_one(ledger)
    await ledger.settle(found, reply="done", run_id="run-1")

    one = await told(ledger)
    assert (one.delivered_at_ms, one.read_at_ms) == (took_ms, took_ms + 5_000)


async def test_a_new_attempt_is_taken_anew(ledger: Ledger) -> None:
    await ledger.send("m1")
    failed = await take_one(ledger)
    await named(ledger, failed, "run-1")
    await ledger.settle(failed, State.WAITING, Cause.RETURNED)
    waiting = await told(ledger)
    assert (waiting.run_id, waiting.delivered_at_ms) == (None, None)
    await ledger.time.advance(seconds=1)
    again = await take_one(ledger)
    await named(ledger, again, "run-2")
    await ledger.settle(again, reply="done", run_id="run-2")

    one = await told(ledger)
    assert (one.run_id, one.delivered_at_ms, one.attempts) == ("run-2", ledger.time.now_ms, 2)


@pytest.mark.parametrize(("state", "was_taken"), [(State.UNKNOWN, True), (State.DEAD, False), (State.REFUSED, False)])
async def test_an_end_without_a_reply_names_the_run_that_a_person_looks_for(
    ledger: Ledger, state: State, *, was_taken: bool
) -> None:
    await ledger.send("m1")
    taken = await take_one(ledger)
    await named(ledger, taken, "run-1")
    await ledger.time.advance(seconds=1)
    await ledger.settle(taken, state, Cause.OUTCOME_UNKNOWN, detail="no runs")

    one = await told(ledger)
    assert (one.run_id, one.cause, one.detail) == ("run-1", Cause.OUTCOME_UNKNOWN, "no runs")
    assert (one.delivered_at_ms is not None) == was_taken
    assert (one.read_at_ms, one.ended_at_ms) == (None, ledger.time.now_ms)


async def test_an_empty_reply_says_why_it_is_empty(ledger: Ledger) -> None:
    await ledger.send("m1")
    why = "the reply is empty: the turn ended by max_steps"
    await ledger.settle(await take_one(ledger), reply="", stop_reason="max_steps", detail=why)

    one = await told(ledger)
    assert (one.reply, one.stop_reason, one.detail) == ("", "max_steps", why)
