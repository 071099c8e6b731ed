"""One message to many: its recipients are taken down once, its deliveries made in steps, paused, resumed, cancelled."""

import pytest

from schemas.delivery import Cause, State
from schemas.envelope import Priority
from tests.redis.broker.shorthand import sweep, take_one
from tests.support.ledger import OWNER, Ledger, agent_id
from workers.broker.results import Expanded, Move


async def move_to(ledger: Ledger, message_id: str, number: int, **more: object) -> Move:
    return Move(
        entry_id=await ledger.entry_of(message_id),
        message_id=message_id,
        digest="hello",
        envelope=f'{{"id":"{message_id}","content":"hello"}}',
        size=5,
        **{  # type: ignore[arg-type]
            "rank": Priority.NORMAL.rank,
            "not_before_ms": None,
            "expires_at_ms": None,
            "recipients": tuple((agent_id(one + 1), ("crew",)) for one in range(number)),
            **more,
        },
    )


async def snapshot(ledger: Ledger, message_id: str, number: int, **more: object) -> str:
    move = await move_to(ledger, message_id, number, **more)
    return await ledger.scripts.snapshot(ledger.context, owner=OWNER, move=move)


async def begin(ledger: Ledger, message_id: str, number: int, **more: object) -> None:
    assert await ledger.publish(message_id) == "accepted"
    assert await snapshot(ledger, message_id, number, **more) == "taken"


async def expand(ledger: Ledger, message_id: str, limit: int = 1000, owner: str = OWNER) -> Expanded:
    entry = await ledger.entry_of(message_id)
    return await ledger.scripts.expand(
        ledger.context, owner=owner, entry_id=entry, message_id=message_id, limit=limit, seed="s"
    )


async def bulk(ledger: Ledger, message_id: str, number: int, **more: object) -> None:
    await begin(ledger, message_id, number, **more)
    assert (await expand(ledger, message_id)).left == 0


async def message(ledger: Ledger, message_id: str) -> dict[str, str]:
    found = await ledger.client.hgetall(ledger.keys.message(message_id))
    return {name.decode(): value.decode() for name, value in found.items()}


async def test_the_entry_stays_until_the_last_delivery_is_made(ledger: Ledger) -> None:
    """Whoever comes after a crash finds it on the stream, and goes on where it stood."""
    await begin(ledger, "m", 5)
    assert await ledger.client.xlen(ledger.keys.tasks) == 1
    assert (await ledger.counters())["accepted"] == 5

    assert (await expand(ledger, "m", 2)).left == 3
    assert await snapshot(ledger, "m", 9) == "expanding"
    assert (await expand(ledger, "m", 2)).left == 1
    assert await ledger.client.xlen(ledger.keys.tasks) == 1
    assert (await expand(ledger, "m", 2)).left == 0

    assert await ledger.client.xlen(ledger.keys.tasks) == 0
    assert (await message(ledger, "m"))["state"] == "open"
    assert sorted(await ledger.take_ids()) == [f"m:{number}" for number in range(1, 6)]
    assert await ledger.field("m:3", "agent") == agent_id(3)
    assert await ledger.field("m:3", "teams") == "crew"
    assert (await expand(ledger, "m")).status == "gone"
    counters = await ledger.counters()
    assert (counters["accepted"], counters["expanding"], counters["running"]) == (0, 0, 5)


async def test_the_pools_are_rung_as_deliveries_are_made(ledger: Ledger) -> None:
    await begin(ledger, "m", 2)
    assert [pool.value for pool in (await expand(ledger, "m", 1)).pools] == ["standard"]


async def test_content_is_stored_once(ledger: Ledger) -> None:
    await bulk(ledger, "m", 3)
    for number in (1, 2, 3):
        assert await ledger.field(f"m:{number}", "envelope") is None
    assert (await ledger.counters())["bytes"] == 5


async def test_what_is_published_later_stands_behind_even_where_it_is_dispatched_first(ledger: Ledger) -> None:
    """The arrivals of the whole snapshot are set aside when it is taken."""
    await begin(ledger, "m", 3)
    await ledger.send("later", agent_id(3))
    await expand(ledger, "m")
    box = await ledger.client.zrange(ledger.keys.mailbox(agent_id(3)), 0, -1)
    assert box == [b"m:3", b"later:1"]


async def test_only_the_streams_owner_takes_down_and_expands(ledger: Ledger) -> None:
    await ledger.publish("m")
    move = await move_to(ledger, "m", 2)
    assert await ledger.scripts.snapshot(ledger.context, owner="another", move=move) == "lost"
    await snapshot(ledger, "m", 2)
    assert (await expand(ledger, "m", owner="another")).status == "lost"
    assert (await expand(ledger, "m")).left == 0


async def test_a_snapshot_answers_as_a_dispatch_does(ledger: Ledger) -> None:
    await bulk(ledger, "m", 2)
    again = await ledger.client.xadd(ledger.keys.tasks, {"message": "x"})
    move = await move_to(ledger, "m", 2)
    same = Move(**{**_fields(move), "entry_id": again.decode()})
    assert await ledger.scripts.snapshot(ledger.context, owner=OWNER, move=same) == "duplicate"
    assert await ledger.scripts.snapshot(ledger.context, owner=OWNER, move=same) == "gone"
    again = await ledger.client.xadd(ledger.keys.tasks, {"message": "x"})
    other = Move(**{**_fields(move), "entry_id": again.decode(), "digest": "other"})
    assert await ledger.scripts.snapshot(ledger.context, owner=OWNER, move=other) == "conflict"
    await ledger.client.xdel(ledger.keys.tasks, again)


def _fields(move: Move) -> dict[str, object]:
    return {name: getattr(move, name) for name in Move.__slots__}


async def test_a_paused_message_is_set_aside_and_comes_back_in_its_place(ledger: Ledger) -> None:
    await bulk(ledger, "m", 2)
    await ledger.send("behind", agent_id(1))
    assert await ledger.scripts.pause(ledger.context, message_id="m") == "paused"
    assert await ledger.scripts.pause(ledger.context, message_id="m") == "already"

    assert await ledger.take_ids() == ["behind:1"]
    assert await ledger.state("m:1") == "waiting"
    assert await ledger.field("m:1", "cause") == "paused"
    assert await ledger.take_ids() == []

    status, look = await ledger.scripts.resume(ledger.context, message_id="m")
    assert (status, look) == ("resumed", ledger.time.now_ms)
    assert await ledger.take_ids() == ["m:2"]
    await ledger.send("urgent", agent_id(1), priority=Priority.URGENT)
    behind = await ledger.field("behind:1", "token")
    assert behind is not None
    assert await ledger.scripts.resume(ledger.context, message_id="m") == ("already", 0)


async def test_what_runs_when_its_message_is_paused_comes_to_its_end(ledger: Ledger) -> None:
    await bulk(ledger, "m", 2)
    first = (await ledger.take(1)).taken[0]
    await ledger.scripts.pause(ledger.context, message_id="m")

    assert await ledger.settle(first) == "settled"
    assert await ledger.state(first.id) == "delivered"
    assert await ledger.take_ids() == []


async def test_what_comes_back_while_its_message_is_paused_waits_too(ledger: Ledger) -> None:
    await bulk(ledger, "m", 1)
    one = await take_one(ledger)
    await ledger.scripts.pause(ledger.context, message_id="m")
    await ledger.settle(one, State.WAITING, Cause.BACKOFF)
    assert await ledger.take_ids() == []
    await ledger.scripts.resume(ledger.context, message_id="m")
    assert await ledger.take_ids() == ["m:1"]


async def test_a_cut_call_is_looked_after_even_while_its_message_is_paused(ledger: Ledger) -> None:
    await bulk(ledger, "m", 1)
    one = await take_one(ledger)
    await ledger.scripts.pause(ledger.context, message_id="m")
    await ledger.settle(one, State.WAITING, Cause.LOOKING, fate_open=True)
    assert await ledger.take_ids() == ["m:1"]


@pytest.mark.parametrize("resumed", [False, True])
async def test_a_late_worker_takes_what_was_redriven_from_where_it_was_set_aside(
    ledger: Ledger, *, resumed: bool
) -> None:
    """It is in one place then, not in its mailbox and aside, or on its way back, at once."""
    await bulk(ledger, "m", 1)
    late = await take_one(ledger)
    for _ in range(ledger.rules.max_crashes - 1):
        await ledger.time.advance(ms=15_001)
        late = await take_one(ledger)
    await ledger.time.advance(ms=15_001)
    await sweep(ledger)
    letter = (await ledger.client.xrange(ledger.keys.dead))[0][0].decode()
    await ledger.scripts.redrive(ledger.context, entry_id=letter, ttl_ms=None)
    await ledger.scripts.pause(ledger.context, message_id="m")
    assert await ledger.take_ids() == []
    if resumed:
        await ledger.scripts.resume(ledger.context, message_id="m")

    assert await ledger.settle(late, State.WAITING, Cause.BUSY) == "settled"

    assert await ledger.client.zrange(ledger.keys.mailbox(agent_id(1)), 0, -1) == [b"m:1"]
    assert await ledger.client.exists(f"{ledger.keys.root}aside:m") == 0
    assert await ledger.client.zscore(ledger.keys.later, "d:m:1") is None
    await ledger.scripts.resume(ledger.context, message_id="m")
    assert await ledger.take_ids() == ["m:1"]


async def test_what_is_paused_still_expires(ledger: Ledger) -> None:
    await bulk(ledger, "m", 1, expires_at_ms=ledger.time.now_ms + 1000)
    await ledger.scripts.pause(ledger.context, message_id="m")
    assert await ledger.take_ids() == []
    await ledger.time.advance(seconds=2)
    await ledger.scripts.sweep(ledger.context, seed="s", overflow_ms=1000)
    assert await ledger.state("m:1") == "expired"
    assert (await message(ledger, "m"))["state"] == "ended"
    assert await ledger.scripts.pause(ledger.context, message_id="m") == "ended"


async def test_a_message_may_be_paused_before_it_is_expanded(ledger: Ledger) -> None:
    await ledger.publish("m")
    assert await ledger.scripts.pause(ledger.context, message_id="m") == "paused"
    assert await snapshot(ledger, "m", 3) == "taken"
    await expand(ledger, "m")
    assert await ledger.take_ids() == []
    await ledger.scripts.resume(ledger.context, message_id="m")
    assert len(await ledger.take_ids()) == 3


async def test_not_before_holds_for_each(ledger: Ledger) -> None:
    await bulk(ledger, "m", 2, not_before_ms=ledger.time.now_ms + 5000)
    assert await ledger.take_ids() == []
    await ledger.time.advance(seconds=6)
    assert len(await ledger.take_ids()) == 2


async def test_pause_and_resume_say_what_there_is_not(ledger: Ledger) -> None:
    assert await ledger.scripts.pause(ledger.context, message_id="never") == "not_found"
    assert await ledger.scripts.resume(ledger.context, message_id="never") == ("not_found", 0)
    assert await ledger.client.exists(ledger.keys.message("never")) == 0


async def test_cancelling_goes_in_steps(ledger: Ledger) -> None:
    """Bounded, however many there are; what runs is too late."""
    number = ledger.rules.per_step + 20
    await bulk(ledger, "m", number)
    running = (await ledger.take(1)).taken[0]
    first = await ledger.scripts.cancel(ledger.context, message_id="m")
    assert (len(first.results), first.go_on_at) == (ledger.rules.per_step, ledger.rules.per_step + 1)
    second = await ledger.scripts.cancel(ledger.context, message_id="m", first=first.go_on_at)
    assert (len(second.results), second.go_on_at) == (20, 0)
    late = [one for one in (*first.results, *second.results) if one[1] != "cancelled"]
    assert late == [(running.id, "running")]
    await ledger.settle(running)
    found = await message(ledger, "m")
    assert (found["state"], found["n_cancelled"], found["n_delivered"]) == ("ended", str(number - 1), "1")


async def test_what_is_cancelled_while_it_is_expanded_is_never_taken(ledger: Ledger) -> None:
    await begin(ledger, "m", 4)
    await expand(ledger, "m", 2)
    one = (await ledger.take(1)).taken[0]
    answer = await ledger.scripts.cancel(ledger.context, message_id="m")
    assert [result for _, result in answer.results] == ["running", "cancelled", "cancelled", "cancelled"]
    assert (await expand(ledger, "m")).left == 0
    assert await ledger.take_ids() == []
    await ledger.settle(one)
    found = await message(ledger, "m")
    assert (found["state"], found["n_cancelled"], found["open"]) == ("ended", "3", "0")
    assert await ledger.client.xlen(ledger.keys.tasks) == 0


async def test_a_wholly_cancelled_one_ends_with_its_last_delivery(ledger: Ledger) -> None:
    await begin(ledger, "m", 3)
    await ledger.scripts.cancel(ledger.context, message_id="m")
    await expand(ledger, "m", 2)
    assert (await message(ledger, "m"))["state"] == "expanding"
    await expand(ledger, "m", 2)
    found = await message(ledger, "m")
    assert (found["state"], found["n_cancelled"]) == ("ended", "3")
    assert (await ledger.counters())["bytes"] == 0


async def test_ends_are_counted_and_a_redrive_counts_back(ledger: Ledger) -> None:
    await bulk(ledger, "m", 2)
    first, second = (await ledger.take()).taken
    await ledger.settle(first)
    await ledger.settle(second, State.DEAD, Cause.ATTEMPTS)
    found = await message(ledger, "m")
    assert (found["n_delivered"], found["n_dead"], found["state"]) == ("1", "1", "ended")
    letter = (await ledger.client.xrange(ledger.keys.dead))[0][0].decode()
    await ledger.scripts.redrive(ledger.context, entry_id=letter, ttl_ms=None)
    found = await message(ledger, "m")
    assert (found["n_dead"], found["state"]) == ("0", "open")


async def test_a_purged_one_leaves_nothing(ledger: Ledger) -> None:
    await bulk(ledger, "m", 2)
    for one in (await ledger.take()).taken:
        await ledger.settle(one)
    await ledger.time.advance(ms=ledger.rules.kept_ms + 1)
    await ledger.scripts.sweep(ledger.context, seed="s", overflow_ms=1000)
    left = {key.decode() async for key in ledger.client.scan_iter(match=f"{ledger.keys.root}*")}
    assert not [key for key in left if ":m" in key]
    assert await ledger.client.exists(f"{ledger.keys.root}bulks") == 0


async def gathering(ledger: Ledger, *agents: str, want: int = 50, within_ms: int = 10_000) -> None:
    assert await ledger.publish("g") == "accepted"
    move = await move_to(
        ledger,
        "g",
        0,
        recipients=tuple((agent, ()) for agent in agents),
        gather_want=want,
        gather_within_ms=within_ms,
    )
    assert (await ledger.scripts.dispatch(ledger.context, owner=OWNER, move=move, seed="s")).status == "moved"


async def due(ledger: Ledger) -> list[str]:
    return list((await ledger.scripts.sweep(ledger.context, seed="s", overflow_ms=1000)).gathers)


async def test_a_gathering_is_due_when_enough_replies_have_come(ledger: Ledger) -> None:
    await gathering(ledger, agent_id(1), agent_id(2), agent_id(3), want=2)
    first, second, third = (await ledger.take()).taken
    await ledger.settle(first)
    assert await due(ledger) == []
    assert (await ledger.scripts.gather(ledger.context, message_id="g"))[0] == "early"
    await ledger.settle(second)
    assert await due(ledger) == ["g"]
    assert (await ledger.scripts.gather(ledger.context, message_id="g"))[0] == "gathered"
    assert (await ledger.scripts.gather(ledger.context, message_id="g"))[0] == "gone"
    await ledger.settle(third)
    assert await due(ledger) == []
    assert (await message(ledger, "g"))["gathered_at"] == str(ledger.time.now_ms)


async def test_a_gathering_is_due_when_nobody_can_reply_any_more(ledger: Ledger) -> None:
    await gathering(ledger, agent_id(1), agent_id(2))
    first, second = (await ledger.take()).taken
    await ledger.settle(first)
    await ledger.settle(second, State.DEAD, Cause.ATTEMPTS)
    assert await due(ledger) == ["g"]
    await ledger.scripts.gather(ledger.context, message_id="g")


async def test_a_gathering_is_due_at_its_time_counted_from_acceptance(ledger: Ledger) -> None:
    await gathering(ledger, agent_id(1), within_ms=10_000)
    accepted_at = int((await message(ledger, "g"))["accepted_at"])
    assert (await ledger.take(0)).next_look_ms <= accepted_at + 10_000
    await ledger.time.advance(ms=accepted_at + 9_999 - ledger.time.now_ms)
    assert await due(ledger) == []
    await ledger.time.advance(ms=1)
    assert await due(ledger) == ["g"]
    answer = await ledger.scripts.gather(
        ledger.context, message_id="g", forward_id="r1", forward_digest="d", forward_envelope="{}"
    )
    assert answer[0] == "gathered"
    found = await message(ledger, "g")
    assert (found["reply_message"], found["state"]) == ("r1", "open")
    assert (await message(ledger, "r1"))["state"] == "accepted"


async def test_a_gathering_that_nobody_closed_goes_with_its_message(ledger: Ledger) -> None:
    """And whoever still wanted to close it brings nothing of it back."""
    await gathering(ledger, agent_id(1))
    await ledger.settle(await take_one(ledger))
    await ledger.time.advance(ms=ledger.rules.kept_ms + 1)
    assert await due(ledger) == []
    assert (await ledger.scripts.gather(ledger.context, message_id="g")) == ("gone", 0)
    assert await ledger.client.exists(ledger.keys.message("g"), f"{ledger.keys.root}gathers") == 0


async def test_a_gathering_whose_message_is_gone_is_closed_without_a_trace(ledger: Ledger) -> None:
    await ledger.client.zadd(f"{ledger.keys.root}gathers", {"never": 1})
    assert (await ledger.scripts.gather(ledger.context, message_id="never")) == ("gone", 0)
    assert await ledger.client.exists(ledger.keys.message("never"), f"{ledger.keys.root}gathers") == 0


async def test_a_gathering_of_more_than_there_are_waits_for_all(ledger: Ledger) -> None:
    await gathering(ledger, agent_id(1), want=50)
    await ledger.settle(await take_one(ledger))
    assert await due(ledger) == ["g"]
    await ledger.scripts.gather(ledger.context, message_id="g")
