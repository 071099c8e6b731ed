"""Dispatch: from the stream into mailboxes, in one step."""

from dataclasses import replace

import pytest

from schemas.envelope import Priority
from tests.redis.broker.shorthand import a_move, add_raw, events, move, record, refuse, rung
from tests.support.ledger import OWNER, Ledger, agent_id
from workers.broker.rules import Pool


async def test_an_entry_moves_into_the_mailbox_of_its_agent(ledger: Ledger) -> None:
    """Off the stream, into the ledger and the mailbox; the pool of its priority is to be rung."""
    await ledger.publish("m1")

    answer = await ledger.dispatch("m1", priority=Priority.HIGH)

    assert answer.status == "moved"
    assert answer.pools == (Pool.EXPRESS,)
    assert answer.next_look_ms == 0
    assert await ledger.client.xlen(ledger.keys.tasks) == 0
    assert await ledger.client.zrange(ledger.keys.mailbox(agent_id(1)), 0, -1) == [b"m1:1"]
    assert await ledger.state("m1:1") == "waiting"
    assert (await record(ledger, "m1"))["state"] == "open"
    assert await events(ledger) == [("m1", "accepted", ""), ("m1:1", "waiting", "")]


async def test_an_entry_of_a_producer_without_the_sdk_is_accepted_as_it_moves(ledger: Ledger) -> None:
    """It has no record before; it has the same record after."""
    entry = await add_raw(ledger, {"message": "hello"})

    assert (await move(ledger, a_move(entry, "m1", agent_id(1)))).status == "moved"

    found = await record(ledger, "m1")
    assert (found["digest"], found["entry"], found["state"]) == ("hello", entry, "open")
    assert found["accepted_at"] == entry.partition("-")[0]
    assert await events(ledger) == [("m1", "accepted", ""), ("m1:1", "waiting", "")]
    assert await ledger.counters() == {"bytes": 5, "waiting": 1, "arrival": ledger.time.now_us}


async def test_a_dispatcher_that_crashed_moves_an_entry_once(ledger: Ledger) -> None:
    """It read, it moved, it died before it knew; the next one reads the same and is told that it is gone."""
    entry = await add_raw(ledger, {"message": "hello"})
    one = a_move(entry, "m1", agent_id(1))
    assert (await move(ledger, one)).status == "moved"
    before = await ledger.counters()

    again = await move(ledger, one)

    assert again.status == "gone"
    assert await ledger.counters() == before
    assert await refuse(ledger, entry, "m1") == "gone"


async def test_the_same_message_by_sdk_and_by_stream_is_one(ledger: Ledger) -> None:
    """A publish and a raw XADD under one id: whichever entry comes first, one delivery."""
    before = await add_raw(ledger, {"message": "hello"})
    await ledger.publish("m1", "hello")
    behind = await add_raw(ledger, {"message": "hello"})

    first = await move(ledger, a_move(before, "m1", agent_id(1)))
    own = await ledger.dispatch("m1")
    last = await move(ledger, a_move(behind, "m1", agent_id(1)))

    assert (first.status, own.status, last.status) == ("duplicate", "moved", "duplicate")
    assert await ledger.client.xlen(ledger.keys.tasks) == 0
    assert (await ledger.counters())["waiting"] == 1
    assert (await ledger.counters())["bytes"] == 5


async def test_the_same_raw_entry_twice_is_one_message(ledger: Ledger) -> None:
    entries = [await add_raw(ledger, {"message": "hello"}) for _ in range(2)]

    statuses = [(await move(ledger, a_move(entry, "m1", agent_id(1)))).status for entry in entries]

    assert statuses == ["moved", "duplicate"]
    assert await ledger.take_ids() == ["m1:1"]


async def test_another_body_under_a_known_id_stays_on_the_stream_as_a_conflict(ledger: Ledger) -> None:
    """The dispatcher refuses it under another name; the first message is not touched."""
    await ledger.publish("m1", "hello")
    entry = await add_raw(ledger, {"message": "other"})

    answer = await move(ledger, a_move(entry, "m1", agent_id(1), "other"))

    assert answer.status == "conflict"
    assert await ledger.client.xlen(ledger.keys.tasks) == 2
    assert (await record(ledger, "m1"))["state"] == "accepted"
    assert (await ledger.dispatch("m1")).status == "moved"


async def test_a_cancelled_message_does_not_move(ledger: Ledger) -> None:
    """The entry was read, then cancelled: it is gone. Raw copies of it are repetitions."""
    await ledger.publish("m1")
    entry = await ledger.entry_of("m1")
    await ledger.scripts.cancel(ledger.context, message_id="m1")

    assert (await move(ledger, a_move(entry, "m1", agent_id(1)))).status == "gone"
    copy = await add_raw(ledger, {"message": "hello"})
    assert (await move(ledger, a_move(copy, "m1", agent_id(1)))).status == "duplicate"


async def test_what_the_dispatcher_counts_is_what_comes_back(ledger: Ledger) -> None:
    """A reply that was sent on is counted by its envelope and dispatched by its content: no bytes leak."""
    await ledger.publish("m1", "hello")
    one = a_move(await ledger.entry_of("m1"), "m1", agent_id(1))

    await move(ledger, replace(one, size=2))

    assert (await ledger.counters())["bytes"] == 2
    await ledger.settle((await ledger.take()).taken[0])
    assert (await ledger.counters())["bytes"] == 0


async def test_a_full_tenant_keeps_what_is_on_the_stream_in_its_order(ledger: Ledger) -> None:
    """Nothing is refused that was written: it stays until there is room. What is smaller does not overtake it."""
    await ledger.register(max_bytes=8)
    small, large, last = [await add_raw(ledger, {"message": name}) for name in ("hello", "large", "end")]
    assert (await move(ledger, a_move(small, "m1", agent_id(1)))).status == "moved"

    assert (await move(ledger, a_move(large, "m2", agent_id(1), "large"))).status == "full"
    assert (await move(ledger, a_move(last, "m3", agent_id(1), "end"))).status == "full"

    assert await ledger.client.xlen(ledger.keys.tasks) == 2
    await ledger.settle((await ledger.take()).taken[0])
    await ledger.time.advance(seconds=1)
    assert (await move(ledger, a_move(large, "m2", agent_id(1), "large"))).status == "moved"
    assert (await move(ledger, a_move(last, "m3", agent_id(1), "end"))).status == "moved"


async def test_one_message_always_fits_into_an_empty_tenant(ledger: Ledger) -> None:
    """A limit below one message would stop the stream for ever."""
    await ledger.register(max_bytes=3)
    entry = await add_raw(ledger, {"message": "hello"})

    assert (await move(ledger, a_move(entry, "m1", agent_id(1)))).status == "moved"


async def test_what_the_sdk_was_promised_moves_however_full_the_tenant_is(ledger: Ledger) -> None:
    """It was counted when it was accepted."""
    await ledger.register(max_bytes=5)
    await ledger.publish("m1", "hello")
    await ledger.register(max_bytes=1)

    assert (await ledger.dispatch("m1")).status == "moved"


async def test_several_recipients_share_one_content(ledger: Ledger) -> None:
    """One message, one delivery each; it is over when the last one is."""
    await ledger.send("m1", agent_id(1), agent_id(2), agent_id(3))

    batch = (await ledger.take()).taken

    assert [one.id for one in batch] == ["m1:1", "m1:2", "m1:3"]
    assert [one.agent for one in batch] == [agent_id(1), agent_id(2), agent_id(3)]
    for one in batch:
        assert (await record(ledger, "m1"))["state"] == "open"
        await ledger.settle(one)
    assert (await record(ledger, "m1"))["state"] == "ended"
    assert (await ledger.counters())["bytes"] == 0


async def test_order_on_the_stream_is_order_in_the_mailbox_even_where_the_clock_stands(ledger: Ledger) -> None:
    """Two messages within one microsecond, or behind a clock that went back, still have an order."""
    for number in range(5):
        entry = await add_raw(ledger, {"message": "hello"})
        await ledger.time.advance(ms=-1)
        await move(ledger, a_move(entry, f"m{9 - number}", agent_id(1)))

    box = await ledger.client.zrange(ledger.keys.mailbox(agent_id(1)), 0, -1)

    assert box == [b"m9:1", b"m8:1", b"m7:1", b"m6:1", b"m5:1"]


async def test_not_before_its_time(ledger: Ledger) -> None:
    """It is in nobody's way until then, and told as the time to look."""
    answer = await ledger.send("m1", not_before_in_ms=5_000)
    await ledger.send("m2")

    due_ms = ledger.time.now_ms + 5_000
    assert answer.next_look_ms == due_ms
    assert answer.pools == ()
    assert await ledger.field("m1:1", "due") == str(due_ms)
    assert await ledger.field("m1:1", "cause") == "not_before"
    assert await ledger.take_ids() == ["m2:1"]


@pytest.mark.parametrize("in_ms", [0, -5_000])
async def test_a_not_before_that_has_come_is_now(ledger: Ledger, in_ms: int) -> None:
    assert (await ledger.send("m1", not_before_in_ms=in_ms)).pools == (Pool.STANDARD,)

    assert await ledger.field("m1:1", "cause") == ""
    assert await ledger.take_ids() == ["m1:1"]


async def test_what_has_expired_already_is_recorded_and_never_taken(ledger: Ledger) -> None:
    """It was accepted, so it has an end on record: expired."""
    answer = await ledger.send("m1", expires_in_ms=-1)
    assert answer.status == "moved"
    assert 0 < answer.next_look_ms < ledger.time.now_ms

    assert await ledger.take_ids() == []

    assert await ledger.state("m1:1") == "expired"
    assert await ledger.field("m1:1", "cause") == "ttl"


async def test_a_pool_is_rung_once_until_it_came(ledger: Ledger) -> None:
    """One drain on its way is enough; each pool has its own."""
    first = await ledger.send("m1")
    second = await ledger.send("m2")
    low = await ledger.send("m3", agent_id(2), priority=Priority.LOW)
    urgent = await ledger.send("m4", agent_id(3), priority=Priority.URGENT)

    assert (first.pools, second.pools) == ((Pool.STANDARD,), ())
    assert (low.pools, urgent.pools) == ((Pool.BULK,), (Pool.EXPRESS,))
    assert await rung(ledger) == {"standard", "bulk", "express"}


async def test_the_claim_of_a_pool_names_the_job(ledger: Ledger) -> None:
    await ledger.publish("m1")
    await ledger.dispatch("m1", seed="a|seed")

    claim = await ledger.client.hget(f"{ledger.keys.root}rung", "standard")
    assert claim == f"a|seed|{ledger.time.now_ms}".encode()


@pytest.mark.parametrize(("limits", "suspended"), [({"in_flight": 1}, 0), ({}, 1)])
async def test_nobody_is_rung_where_nothing_can_go(ledger: Ledger, limits: dict[str, int], suspended: int) -> None:
    """A tenant at its limit of turns, or suspended: a drain would only turn round."""
    await ledger.send("m1")
    await ledger.take()
    await ledger.publish("m2")
    await ledger.register(**limits)
    await ledger.client.hset(ledger.keys.tenant, "suspended", suspended)

    answer = await ledger.dispatch("m2", agent_id(2))

    assert answer.status == "moved"
    assert answer.pools == ()


async def test_teams_are_remembered_for_their_windows(ledger: Ledger) -> None:
    await ledger.publish("m1")
    await ledger.dispatch("m1", teams=("red", "blue"))

    assert await ledger.field("m1:1", "teams") == "red,blue"


async def test_a_batch_moves_in_its_order(ledger: Ledger) -> None:
    """Several entries in one round trip are answered one by one."""
    entries = [await add_raw(ledger, {"message": "hello"}) for _ in range(3)]
    moves = [a_move(entry, f"m{number}", agent_id(1)) for number, entry in enumerate(entries)]

    answers = await ledger.scripts.dispatch_all(
        ledger.context, owner="dispatcher-1", moves=[*moves, moves[0]], seed="seed"
    )

    assert [one.status for one in answers] == ["moved", "moved", "moved", "gone"]
    box = await ledger.client.zrange(ledger.keys.mailbox(agent_id(1)), 0, -1)
    assert box == [b"m0:1", b"m1:1", b"m2:1"]


async def test_of_several_in_one_step_the_last_rings_for_all(ledger: Ledger) -> None:
    """One claim, and nobody is asked to look again."""
    entries = [await add_raw(ledger, {"message": "hello"}) for _ in range(3)]
    moves = [a_move(entry, f"m{number}", agent_id(number)) for number, entry in enumerate(entries, 1)]

    answers = await ledger.scripts.dispatch_all(ledger.context, owner=OWNER, moves=moves, seed="s1")

    assert [answer.status for answer in answers] == ["moved"] * 3
    assert [answer.pools for answer in answers] == [(), (), (Pool.STANDARD,)]
    assert [answer.next_look_ms for answer in answers] == [0, 0, 0]
    assert await rung(ledger) == {"standard"}


async def test_where_the_last_of_several_stays_somebody_looks_at_once(ledger: Ledger) -> None:
    """It rang for nobody, so what moved before it is found by a look."""
    entry = await add_raw(ledger, {"message": "hello"})
    moves = [a_move(entry, "m1", agent_id(1)), a_move("1-1", "m2", agent_id(2))]

    moved, gone = await ledger.scripts.dispatch_all(ledger.context, owner=OWNER, moves=moves, seed="s1")

    assert (moved.status, gone.status) == ("moved", "gone")
    assert moved.pools == ()
    assert moved.next_look_ms == ledger.time.now_us // 1000
