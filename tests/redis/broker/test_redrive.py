"""Redrive and discard: a dead letter goes back once, or is given up; each is one step."""

from typing import Any

import pytest

from schemas.delivery import Cause, State
from schemas.envelope import Priority
from tests.redis.broker.shorthand import (
    a_move,
    add_raw,
    crash,
    events,
    letters,
    move,
    record,
    refuse,
    sweep,
    take_one,
    with_rules,
)
from tests.support.ledger import Ledger, agent_id


async def letter_ids(ledger: Ledger) -> list[str]:
    return [id_.decode() for id_, _ in await ledger.client.xrange(ledger.keys.dead)]


async def redrive(ledger: Ledger, *, ttl_ms: int | None = None) -> str:
    """The oldest letter."""
    [id_, *_] = await letter_ids(ledger)
    return (await ledger.scripts.redrive(ledger.context, entry_id=id_, ttl_ms=ttl_ms)).status


async def discard(ledger: Ledger) -> str:
    [id_, *_] = await letter_ids(ledger)
    return await ledger.scripts.discard(ledger.context, entry_id=id_)


async def die(ledger: Ledger, message: str = "m1", state: State = State.DEAD, **options: Any) -> None:
    await ledger.send(message, **options)
    assert await ledger.settle(await take_one(ledger), state, Cause.ATTEMPTS, detail="500 from the server") == "settled"


@pytest.mark.parametrize("state", [State.DEAD, State.UNKNOWN, State.REFUSED])
async def test_it_waits_again_with_nothing_held_against_it(ledger: Ledger, state: State) -> None:
    await die(ledger, state=state)

    assert await redrive(ledger) == "redriven"

    assert await letters(ledger) == []
    assert await ledger.counters() | {"arrival": 0, "fence": 0} == {
        "arrival": 0,
        "fence": 0,
        "accepted": 0,
        "running": 0,
        "bytes": 5,
        "waiting": 1,
        str(state): 0,
    }
    again = await take_one(ledger)
    assert (again.id, again.attempt, again.epoch, again.fate_open, again.run_id) == ("m1:1", 1, 3, False, None)
    assert [step[1:] for step in (await events(ledger))[-3:]] == [
        (state, "attempts"),
        ("waiting", "redriven"),
        ("running", ""),
    ]
    history = await ledger.field("m1:1", "history")
    assert history is not None
    assert [line.split("|")[1] for line in history.splitlines()] == ["waiting", "running", state, "waiting", "running"]
    assert "letters" not in await record(ledger, "m1")


async def test_twice_is_once(ledger: Ledger) -> None:
    await die(ledger)
    [id_] = await letter_ids(ledger)

    answers = [await ledger.scripts.redrive(ledger.context, entry_id=id_, ttl_ms=None) for _ in range(2)]

    assert [one.status for one in answers] == ["redriven", "gone"]
    assert await ledger.take_ids() == ["m1:1"]
    assert await ledger.scripts.discard(ledger.context, entry_id=id_) == "gone"


async def test_it_goes_behind_what_waits_and_keeps_its_priority(ledger: Ledger) -> None:
    await die(ledger, "m1")
    await die(ledger, "m2", priority=Priority.HIGH)
    await ledger.send("m3")
    await ledger.time.advance(ms=1)

    assert [await redrive(ledger), await redrive(ledger)] == ["redriven", "redriven"]

    order = []
    for _ in range(3):
        taken = await take_one(ledger)
        order.append(taken.message_id)
        await ledger.settle(taken)
    assert order == ["m2", "m3", "m1"]


async def test_letters_of_an_agent_go_back_in_their_order(ledger: Ledger) -> None:
    for number in range(4):
        await die(ledger, f"m{number}")

    for _ in range(4):
        assert await redrive(ledger) == "redriven"

    box = await ledger.client.zrange(ledger.keys.mailbox(agent_id(1)), 0, -1)
    assert box == [f"m{number}:1".encode() for number in range(4)]


async def test_poison_has_all_its_lives_again(ledger: Ledger) -> None:
    one = with_rules(ledger, max_crashes=2)
    await one.send("m1")
    for _ in range(2):
        await one.take()
        await crash(one)
    assert await one.state("m1:1") == "dead"

    assert await redrive(one) == "redriven"

    await one.take()
    await crash(one)
    assert await one.state("m1:1") == "waiting"


async def test_what_has_expired_stays_unless_it_gets_new_time(ledger: Ledger) -> None:
    """Its own: the message's other deliveries keep theirs."""
    await die(ledger, expires_in_ms=1_000)
    await ledger.time.advance(ms=1_000)

    assert await redrive(ledger) == "expired"
    assert len(await letters(ledger)) == 1
    assert await redrive(ledger, ttl_ms=500) == "redriven"

    assert (await take_one(ledger)).expires_at_ms == ledger.time.now_ms + 500
    await crash(ledger)
    assert await ledger.state("m1:1") == "waiting"


async def test_new_time_runs_out_as_any(ledger: Ledger) -> None:
    await die(ledger)
    assert await redrive(ledger, ttl_ms=500) == "redriven"

    await ledger.time.advance(ms=500)
    await sweep(ledger)

    assert await ledger.state("m1:1") == "expired"


async def test_bytes_are_counted_again_and_have_a_ceiling(ledger: Ledger) -> None:
    await ledger.client.hset(ledger.keys.tenant, "max_bytes", 8)
    await die(ledger, "m1")
    await ledger.send("m2")

    assert await redrive(ledger) == "full"
    assert len(await letters(ledger)) == 1

    await ledger.settle(await take_one(ledger))
    assert await redrive(ledger) == "redriven"


async def test_one_of_several_deliveries_goes_back_alone(ledger: Ledger) -> None:
    await ledger.send("m1", agent_id(1), agent_id(2))
    for one in (await ledger.take()).taken:
        state = State.DEAD if one.agent == agent_id(1) else State.DELIVERED
        await ledger.settle(one, state, Cause.ATTEMPTS)

    assert await redrive(ledger) == "redriven"

    assert await ledger.take_ids() == ["m1:1"]
    assert await ledger.state("m1:2") == "delivered"


async def test_somebody_is_told_to_look(ledger: Ledger) -> None:
    await die(ledger)
    await ledger.take()
    [id_] = await letter_ids(ledger)

    answer = await ledger.scripts.redrive(ledger.context, entry_id=id_, ttl_ms=None)

    assert answer.next_look_ms == ledger.time.now_ms


async def test_what_was_refused_at_the_stream_goes_back_as_a_new_entry(ledger: Ledger) -> None:
    """Byte for byte; the dispatcher looks at it as at any other."""
    raw = b"\xff not yet known \x00"
    first = await add_raw(ledger, {"message": raw})
    await refuse(ledger, first, f"x{first}")

    assert await redrive(ledger) == "redriven"

    [(entry, fields)] = await ledger.client.xrange(ledger.keys.tasks)
    assert fields == {b"message": raw}
    assert await record(ledger, f"x{first}") == {}
    again = entry.decode()
    assert (await move(ledger, a_move(again, f"x{again}", agent_id(1)))).status == "moved"
    assert await ledger.take_ids() == [f"x{again}:1"]


@pytest.mark.parametrize("again", ["moved", "refused"])
async def test_what_was_published_and_refused_is_accepted_again(ledger: Ledger, again: str) -> None:
    """Its record, its bytes and its id are its own all the way."""
    await ledger.publish("m1")
    await refuse(ledger, await ledger.entry_of("m1"), "m1", detail="no such agent")

    assert await redrive(ledger) == "redriven"

    assert (await record(ledger, "m1"))["state"] == "accepted"
    assert await ledger.counters() == {"accepted": 1, "bytes": 5, "refused": 0}
    if again == "moved":
        assert (await ledger.dispatch("m1")).status == "moved"
        assert await ledger.take_ids() == ["m1:1"]
    else:
        assert await refuse(ledger, await ledger.entry_of("m1"), "m1") == "refused"
        assert len(await letters(ledger)) == 1


async def test_a_letter_whose_id_was_published_anew_is_not_put_over_it(ledger: Ledger) -> None:
    entry = await add_raw(ledger, {"message": "bad"})
    await refuse(ledger, entry, "m1")
    assert await ledger.publish("m1") == "accepted"

    assert await redrive(ledger) == "conflict"
    assert await discard(ledger) == "discarded"


async def test_a_discarded_letter_leaves_its_end_and_is_purged_in_time(ledger: Ledger) -> None:
    await die(ledger)

    assert await discard(ledger) == "discarded"

    assert await letters(ledger) == []
    assert await ledger.state("m1:1") == "dead"
    assert await ledger.field("m1:1", "cause") == "attempts"
    assert (await events(ledger))[-1] == ("m1:1", "dead", "discarded")
    await ledger.time.advance(ms=ledger.rules.kept_ms)
    await sweep(ledger)
    assert await record(ledger, "m1") == {}


async def test_a_discarded_refusal_is_purged_in_time(ledger: Ledger) -> None:
    entry = await add_raw(ledger, {"message": "bad"})
    await refuse(ledger, entry, "m1")

    assert await discard(ledger) == "discarded"

    assert (await record(ledger, "m1"))["state"] == "refused"
    await ledger.time.advance(ms=ledger.rules.kept_ms)
    await sweep(ledger)
    assert await record(ledger, "m1") == {}


async def test_a_message_goes_when_its_last_letter_has(ledger: Ledger) -> None:
    await ledger.send("m1", agent_id(1), agent_id(2))
    for one in (await ledger.take()).taken:
        await ledger.settle(one, State.DEAD, Cause.ATTEMPTS)

    await discard(ledger)
    assert await ledger.client.zcard(f"{ledger.keys.root}ended") == 0
    await discard(ledger)
    assert await ledger.client.zcard(f"{ledger.keys.root}ended") == 1
