"""Settle: how a turn ended, the freed agent and what comes next, in one step."""

import pytest

from schemas.delivery import Cause, State, Taken
from schemas.envelope import Priority
from tests.redis.broker.shorthand import (
    crash,
    events,
    give_back,
    letters,
    record,
    rung,
    settlement,
    sweep,
    take_one,
)
from tests.support.ledger import Ledger, agent_id
from workers.broker.results import Settlement
from workers.broker.rules import Pool
from workers.mailbox.ledgered import read

FINAL = [state for state in State if state.is_final]
WITH_A_LETTER = {State.DEAD, State.UNKNOWN, State.REFUSED}


async def test_a_delivered_turn_is_on_record(ledger: Ledger) -> None:
    """Reply, reason, cost, run and times; the agent is free; the message is over."""
    await ledger.send("m1")
    taken = await take_one(ledger)
    await ledger.time.advance(ms=40)
    await ledger.scripts.record_run(
        ledger.context, delivery_id=taken.id, agent=taken.agent, token=taken.token, run_id="run-1"
    )
    began_ms = ledger.time.now_ms
    await ledger.time.advance(ms=500)

    result = await ledger.settle(taken, reply="grüß Gott", stop_reason="end_turn", total_tokens=42, run_id="run-1")

    assert result == "settled"
    assert await ledger.state("m1:1") == "delivered"
    assert await ledger.field("m1:1", "reply") == "grüß Gott"
    assert await ledger.field("m1:1", "stop_reason") == "end_turn"
    assert await ledger.field("m1:1", "tokens") == "42"
    assert await ledger.field("m1:1", "run") == "run-1"
    assert await ledger.field("m1:1", "delivered_at") == str(began_ms)
    assert await ledger.field("m1:1", "ended_at") == str(ledger.time.now_ms)
    assert await ledger.field("m1:1", "late") is None
    assert await ledger.field("m1:1", "fate") is None
    assert (await record(ledger, "m1"))["state"] == "ended"
    assert (await events(ledger))[-1] == ("m1:1", "delivered", "replied")
    assert await letters(ledger) == []
    ended = await ledger.client.zscore(f"{ledger.keys.root}ended", "m1")
    assert ended == ledger.time.now_ms + ledger.rules.kept_ms


async def test_a_turn_whose_run_was_never_named_was_delivered_when_it_ended(ledger: Ledger) -> None:
    await ledger.send("m1")
    taken = await take_one(ledger)
    await ledger.time.advance(ms=500)

    await ledger.settle(taken)

    assert await ledger.field("m1:1", "delivered_at") == str(ledger.time.now_ms)


async def test_the_run_that_was_stored_stays_on_a_delivered_turn(ledger: Ledger) -> None:
    """Though the settlement says neither the run nor that its fate is open."""
    await ledger.send("m1")
    taken = await take_one(ledger)
    await ledger.scripts.record_run(
        ledger.context, delivery_id=taken.id, agent=taken.agent, token=taken.token, run_id="run-1"
    )

    await ledger.settle(taken)

    assert await ledger.field("m1:1", "run") == "run-1"
    assert await ledger.field("m1:1", "epoch") == "1"


@pytest.mark.parametrize("state", FINAL)
async def test_every_end_is_an_end(ledger: Ledger, state: State) -> None:
    """Whatever it is: counted, told, off every list, and with a letter where a person should look."""
    await ledger.send("m1", expires_in_ms=60_000)
    taken = await take_one(ledger)

    assert await ledger.settle(taken, state, Cause.REJECTED, detail="because") == "settled"

    assert await ledger.state("m1:1") == state
    assert await ledger.field("m1:1", "cause") == "rejected"
    assert await ledger.field("m1:1", "detail") == "because"
    assert await ledger.field("m1:1", "ended_at") == str(ledger.time.now_ms)
    counters = await ledger.counters()
    assert (counters["waiting"], counters["running"], counters[state], counters["bytes"]) == (0, 0, 1, 0)
    assert (await events(ledger))[-1] == ("m1:1", state, "rejected")
    assert await ledger.client.exists(f"{ledger.keys.root}expiries") == 0
    assert await ledger.client.exists(ledger.keys.leases) == 0
    assert await ledger.field("m1:1", "due") is None
    found = await letters(ledger)
    assert len(found) == (state in WITH_A_LETTER)
    for letter in found:
        assert letter == {
            "message": b"m1",
            "delivery": b"m1:1",
            "state": state.encode(),
            "cause": b"rejected",
            "detail": b"because",
            "attempts": b"1",
            "raw": b"",
        }
    assert await ledger.take_ids() == []


async def test_a_late_turn_is_delivered_and_says_so(ledger: Ledger) -> None:
    """It began in time and ended after the expiry."""
    await ledger.send("m1", expires_in_ms=1_000)
    taken = await take_one(ledger)
    await ledger.time.advance(ms=1_000)
    await sweep(ledger)

    await ledger.settle(taken)

    assert await ledger.state("m1:1") == "delivered"
    assert await ledger.field("m1:1", "late") == "1"


# Back to the mailbox


async def test_what_comes_back_keeps_its_place(ledger: Ledger) -> None:
    """What is behind it at the same priority, and below, waits; what is more urgent may pass."""
    await ledger.send("m1")
    await ledger.send("m2")
    await ledger.send("low", priority=Priority.LOW)
    first = await take_one(ledger)

    assert await give_back(ledger, first, Cause.BACKOFF, due_in_ms=5_000, detail="503") == "settled"

    assert await ledger.state("m1:1") == "waiting"
    assert await ledger.field("m1:1", "cause") == "backoff"
    assert await ledger.field("m1:1", "detail") == "503"
    assert await ledger.field("m1:1", "due") == str(ledger.time.now_ms + 5_000)
    assert await ledger.take_ids() == []
    await ledger.send("urgent", priority=Priority.URGENT)
    passing = await take_one(ledger)
    assert passing.id == "urgent:1"
    await ledger.settle(passing)
    assert await ledger.take_ids() == []
    await ledger.time.advance(ms=4_999)
    assert await ledger.take_ids() == []
    await ledger.time.advance(ms=1)
    again = await take_one(ledger)
    assert (again.id, again.attempt) == ("m1:1", 2)
    await ledger.settle(again)
    assert await ledger.take_ids() == ["m2:1"]


async def test_what_comes_back_at_once_goes_at_once(ledger: Ledger) -> None:
    await ledger.send("m1")
    await ledger.send("m2")

    await give_back(ledger, await take_one(ledger), Cause.RETURNED)

    assert await ledger.take_ids() == ["m1:1"]


async def test_a_hold_keeps_the_whole_agent(ledger: Ledger) -> None:
    """A busy agent, or one that waits for approval: even what is urgent waits. Other agents do not."""
    await ledger.send("m1")
    await give_back(ledger, await take_one(ledger), Cause.BUSY, hold="agent", hold_ms=5_000, refund=True)
    until = ledger.time.now_ms + 5_000
    assert (await ledger.send("urgent", priority=Priority.URGENT)).pools == ()
    await ledger.send("other", agent_id(2))

    assert await ledger.take_ids() == ["other:1"]

    assert await ledger.client.hget(ledger.keys.holds, agent_id(1)) == f"{until}|busy".encode()
    await ledger.time.advance(ms=4_999)
    assert await ledger.take_ids() == []
    await ledger.time.advance(ms=1)
    assert await ledger.take_ids() == ["urgent:1"]
    assert await ledger.client.exists(ledger.keys.holds) == 0


async def test_a_hold_keeps_the_whole_tenant(ledger: Ledger) -> None:
    """The server's quota is used up: nothing of the tenant is sent before its time, nobody is rung."""
    await ledger.send("m1")
    await ledger.send("m2", agent_id(2))
    taken = await take_one(ledger, limit=1)
    await ledger.client.delete(f"{ledger.keys.root}rung")

    waiting = Settlement(
        taken.id, taken.agent, taken.token, State.WAITING, Cause.THROTTLED, hold="tenant", hold_ms=7_000
    )
    answer = await ledger.scripts.settle(ledger.context, seed="s", settlements=[waiting])

    assert answer.pools == ()
    assert answer.next_look_ms == ledger.time.now_ms + 7_000
    await ledger.time.advance(ms=6_999)
    assert await ledger.take_ids() == []
    await ledger.time.advance(ms=1)
    assert (await sweep(ledger))[1] == {"standard"}
    assert await ledger.take_ids() == ["m1:1", "m2:1"]


@pytest.mark.parametrize("scope", ["agent", "tenant"])
async def test_of_two_holds_the_longer_stands(ledger: Ledger, scope: str) -> None:
    """Two turns come back throttled, the second with a shorter pause: the first pause was promised, too."""
    await ledger.send("m1")
    await ledger.send("m2", agent_id(2))
    one, two = (await ledger.take()).taken
    began_ms = ledger.time.now_ms
    await give_back(ledger, one, Cause.THROTTLED, hold=scope, hold_ms=60_000)
    if scope == "agent":
        await ledger.client.hset(ledger.keys.holds, two.agent, f"{began_ms + 60_000}|throttled")
    await ledger.time.advance(ms=100)

    await give_back(ledger, two, Cause.BUSY, hold=scope, hold_ms=5_000)

    who = "*" if scope == "tenant" else two.agent
    assert await ledger.client.hget(ledger.keys.holds, who) == f"{began_ms + 60_000}|throttled".encode()


async def test_a_refund_gives_the_attempt_back(ledger: Ledger) -> None:
    """A busy agent, a server that is away: not this message's fault."""
    await ledger.send("m1")

    for _ in range(3):
        taken = await take_one(ledger)
        assert taken.attempt == 1
        await give_back(ledger, taken, refund=True)
    await give_back(ledger, await take_one(ledger), Cause.BACKOFF)

    assert (await take_one(ledger)).attempt == 2


async def test_a_failure_the_server_reported_closes_the_epoch(ledger: Ledger) -> None:
    """The next attempt is a new turn: another otid, no run of before to look for."""
    await ledger.send("m1")
    first = await take_one(ledger)
    await ledger.scripts.record_run(
        ledger.context, delivery_id=first.id, agent=first.agent, token=first.token, run_id="run-1"
    )
    await give_back(ledger, first, Cause.BACKOFF)
    await ledger.time.advance(ms=10)

    second = await take_one(ledger)

    assert (second.epoch, second.fate_open, second.run_id) == (2, False, None)
    assert second.opened_at_ms == ledger.time.now_ms
    assert await ledger.field("m1:1", "delivered_at") is None


async def test_every_failure_begins_another_epoch(ledger: Ledger) -> None:
    """An otid is never used again after a failure that the server reported."""
    await ledger.send("m1")

    epochs = []
    for _ in range(4):
        taken = await take_one(ledger)
        epochs.append(taken.epoch)
        await give_back(ledger, taken, Cause.BACKOFF)

    assert epochs == [1, 2, 3, 4]


async def test_an_open_fate_keeps_the_epoch(ledger: Ledger) -> None:
    """The call was cut: the next attempt joins or looks, under the same otid, since the same time."""
    await ledger.send("m1")
    first = await take_one(ledger)
    await give_back(ledger, first, Cause.LOOKING, fate_open=True, run_id="run-1")
    await ledger.time.advance(ms=10)

    second = await take_one(ledger)

    assert (second.epoch, second.fate_open, second.run_id) == (1, True, "run-1")
    assert second.opened_at_ms == first.opened_at_ms
    await give_back(ledger, second, Cause.LOOKING, fate_open=True)
    assert (await take_one(ledger)).run_id == "run-1"


async def test_expired_while_it_ran_and_came_back_is_over(ledger: Ledger) -> None:
    """The server reported a failure after the expiry: no further turn may begin."""
    await ledger.send("m1", expires_in_ms=1_000)
    taken = await take_one(ledger)
    await ledger.time.advance(ms=1_000)

    assert await give_back(ledger, taken, Cause.BACKOFF, due_in_ms=5_000, detail="503") == "settled"

    assert await ledger.state("m1:1") == "expired"
    assert await ledger.field("m1:1", "detail") == "503"


async def test_expired_with_an_open_fate_comes_back_to_be_looked_at(ledger: Ledger) -> None:
    await ledger.send("m1", expires_in_ms=1_000)
    taken = await take_one(ledger)
    await ledger.time.advance(ms=1_000)
    await sweep(ledger)

    await give_back(ledger, taken, Cause.LOOKING, fate_open=True)

    await sweep(ledger)
    assert (await take_one(ledger)).fate_open


async def test_what_came_back_may_still_expire(ledger: Ledger) -> None:
    """Though its expiry was passed over while it ran under a longer lease."""
    await ledger.send("m1", expires_in_ms=10_000)
    await give_back(ledger, await take_one(ledger), Cause.BACKOFF, due_in_ms=60_000)

    assert (await sweep(ledger))[0] == ledger.time.now_ms + 10_000
    await ledger.time.advance(ms=10_000)
    assert (await sweep(ledger))[0] > ledger.time.now_ms + 10_000

    assert await ledger.state("m1:1") == "expired"


# Who may settle


async def lost_changes_nothing(ledger: Ledger, one: Settlement) -> None:
    before = await read(ledger.client, ledger.context)
    answer = await ledger.scripts.settle(ledger.context, seed="", settlements=[one])
    assert answer.results == ("lost",)
    assert await read(ledger.client, ledger.context) == before


def every_way(taken: Taken) -> list[Settlement]:
    return [
        settlement(taken),
        settlement(taken, State.DEAD, Cause.ATTEMPTS),
        settlement(taken, State.WAITING, Cause.BUSY),
        Settlement(
            taken.id,
            taken.agent,
            taken.token,
            State.WAITING,
            Cause.THROTTLED,
            hold="tenant",
            hold_ms=5_000,
            refund=True,
        ),
        Settlement(
            taken.id,
            taken.agent,
            taken.token,
            State.DELIVERED,
            Cause.REPLIED,
            forward_id="r1",
            forward_digest="d",
            forward_envelope="{}",
        ),
    ]


@pytest.mark.parametrize("way", range(5))
async def test_a_worker_that_lost_its_lease_changes_nothing(ledger: Ledger, way: int) -> None:
    """Another runs the turn now: neither outcome, nor hold, nor reply of the first one counts."""
    await ledger.send("m1")
    first = await take_one(ledger)
    await crash(ledger)
    second = await take_one(ledger)

    await lost_changes_nothing(ledger, every_way(first)[way])

    assert await ledger.settle(second) == "settled"
    await lost_changes_nothing(ledger, every_way(first)[way])


async def test_a_token_that_was_never_given_changes_nothing(ledger: Ledger) -> None:
    await ledger.send("m1")
    never = Taken("m1:1", "m1", agent_id(1), 7, 1, 1, False, 0, None, None, 0, b"")
    await lost_changes_nothing(ledger, settlement(never))
    nothing = Taken("m9:1", "m9", agent_id(1), 0, 1, 1, False, 0, None, None, 0, b"")
    await lost_changes_nothing(ledger, settlement(nothing))


async def test_a_late_worker_is_heard_while_nobody_else_took_over(ledger: Ledger) -> None:
    """Its lease was taken back, but the turn is done: the reply counts, and the turn is not run again."""
    await ledger.send("m1")
    await ledger.send("m2")
    first = await take_one(ledger)
    await crash(ledger)
    assert await ledger.state("m1:1") == "waiting"

    assert await ledger.settle(first, reply="done") == "settled"

    assert await ledger.state("m1:1") == "delivered"
    assert await ledger.field("m1:1", "reply") == "done"
    assert await ledger.take_ids() == ["m2:1"]


async def test_a_late_worker_does_not_free_the_agent_of_another_turn(ledger: Ledger) -> None:
    """An urgent one was taken meanwhile: its lease stays, and the agent runs one turn."""
    await ledger.send("m1")
    first = await take_one(ledger)
    await crash(ledger)
    await ledger.send("urgent", priority=Priority.URGENT)
    await ledger.send("m2")
    urgent = await take_one(ledger)
    assert urgent.id == "urgent:1"

    assert await ledger.settle(first) == "settled"

    assert await ledger.take_ids() == []
    pairs = [(urgent.agent, urgent.token)]
    assert not await ledger.scripts.renew(ledger.context, lease_ms=1, pairs=pairs)
    assert await ledger.settle(urgent) == "settled"
    assert await ledger.take_ids() == ["m2:1"]


async def test_a_late_worker_may_give_back_what_was_taken_back(ledger: Ledger) -> None:
    """It knows more than the sweeper did: that the server had reported a failure."""
    await ledger.send("m1")
    first = await take_one(ledger)
    await crash(ledger)

    assert await give_back(ledger, first, Cause.BACKOFF, due_in_ms=1_000) == "settled"

    assert await ledger.take_ids() == []
    await ledger.time.advance(ms=1_000)
    again = await take_one(ledger)
    assert (again.epoch, again.fate_open) == (2, False)


async def test_a_late_worker_cannot_undo_an_end(ledger: Ledger) -> None:
    """Poison, by then: the end is recorded, and one end is all there is."""
    await ledger.send("m1")
    last = await take_one(ledger)
    for _ in range(ledger.rules.max_crashes - 1):
        await crash(ledger)
        last = await take_one(ledger)
    await crash(ledger)

    await lost_changes_nothing(ledger, settlement(last))
    assert await ledger.state("m1:1") == "dead"


@pytest.mark.parametrize("state", [State.DELIVERED, State.WAITING, State.DEAD])
async def test_settling_again_is_told_and_adds_nothing(ledger: Ledger, state: State) -> None:
    """The answer was lost and the worker asks again: same state, one letter, one reply, one event."""
    await ledger.send("m1")
    one = settlement(await take_one(ledger), state, Cause.BACKOFF)

    first = await ledger.scripts.settle(ledger.context, seed="", settlements=[one, one])
    before = await events(ledger), await ledger.counters()
    again = await ledger.scripts.settle(ledger.context, seed="", settlements=[one])

    assert first.results == ("settled", "already")
    assert again.results == ("already",)
    assert (await events(ledger), await ledger.counters()) == before
    assert len(await letters(ledger)) == (state is State.DEAD)


async def test_a_batch_is_settled_one_by_one(ledger: Ledger) -> None:
    """One that is lost does not spoil the others; whoever is next is rung in the same step."""
    for number in range(3):
        await ledger.send(f"m{number}", agent_id(number))
        await ledger.send(f"n{number}", agent_id(number), priority=Priority.LOW)
    taken = (await ledger.take()).taken
    assert await rung(ledger) == set()
    await ledger.settle(taken[1])
    await ledger.client.delete(f"{ledger.keys.root}rung")
    ways = [
        settlement(taken[0]),
        settlement(taken[1], State.DEAD, Cause.ATTEMPTS),
        settlement(taken[2], State.WAITING, Cause.RETURNED),
    ]

    answer = await ledger.scripts.settle(ledger.context, seed="seed", settlements=ways)

    assert answer.results == ("settled", "already", "settled")
    assert set(answer.pools) == {Pool.STANDARD, Pool.BULK}
    assert [await ledger.state(f"m{number}:1") for number in range(3)] == ["delivered", "delivered", "waiting"]


async def test_without_a_seed_nobody_is_rung(ledger: Ledger) -> None:
    """The caller takes again by itself."""
    await ledger.send("m1")
    await ledger.send("m2")
    taken = await take_one(ledger)

    answer = await ledger.scripts.settle(ledger.context, seed="", settlements=[settlement(taken)])

    assert answer.pools == ()
    assert await rung(ledger) == set()


# Replies that go on


def forwarding(taken: Taken, digest: str = "d") -> Settlement:
    return Settlement(
        taken.id,
        taken.agent,
        taken.token,
        State.DELIVERED,
        Cause.REPLIED,
        reply="hi",
        forward_id="r1",
        forward_digest=digest,
        forward_envelope='{"to":"é"}',
    )


async def test_a_reply_is_sent_on_in_the_same_step(ledger: Ledger) -> None:
    """On the stream with its record, once, linked from the delivery it answers."""
    await ledger.send("m1")
    one = forwarding(await take_one(ledger))

    await ledger.scripts.settle(ledger.context, seed="", settlements=[one, one])
    await ledger.scripts.settle(ledger.context, seed="", settlements=[one])

    [(entry, fields)] = await ledger.client.xrange(ledger.keys.tasks)
    assert fields == {b"message": '{"to":"é"}'.encode()}
    found = await record(ledger, "r1")
    assert (found["state"], found["digest"], found["entry"]) == ("accepted", "d", entry.decode())
    assert await ledger.field("m1:1", "reply_message") == "r1"
    assert ("r1", "accepted", "") in await events(ledger)
    counters = await ledger.counters()
    assert (counters["accepted"], counters["bytes"]) == (1, len('{"to":"é"}'.encode()))


async def test_a_reply_goes_on_however_full_the_tenant_is(ledger: Ledger) -> None:
    """The turn has run; what it answered was accepted with it."""
    await ledger.send("m1")
    one = forwarding(await take_one(ledger))
    await ledger.register(max_bytes=1)
    await ledger.client.hset(ledger.keys.tenant, "suspended", 1)

    await ledger.scripts.settle(ledger.context, seed="", settlements=[one])

    assert (await record(ledger, "r1"))["state"] == "accepted"


async def test_a_reply_sent_on_before_is_not_sent_twice(ledger: Ledger) -> None:
    """The same reply from an attempt before: linked. Another message under its id: left alone."""
    await ledger.send("m1", agent_id(1), agent_id(2))
    await ledger.publish("r1", "d")
    one, two = (await ledger.take()).taken

    await ledger.scripts.settle(ledger.context, seed="", settlements=[forwarding(one), forwarding(two, "other")])

    assert await ledger.client.xlen(ledger.keys.tasks) == 1
    assert await ledger.field("m1:1", "reply_message") == "r1"
    assert await ledger.field("m1:2", "reply_message") is None


# Odd text


@pytest.mark.parametrize("text", ["\ud83d", "a\udfffb", "\x00", "|\n|", "ß" * 100_000], ids=range(5))
async def test_no_text_of_a_server_can_spoil_a_batch(ledger: Ledger, text: str) -> None:
    """Half a surrogate pair is valid JSON, and cannot be written to Redis: it must not lose its neighbours."""
    await ledger.send("m1", agent_id(1), agent_id(2))
    one, two = (await ledger.take()).taken
    odd = Settlement(
        one.id,
        one.agent,
        one.token,
        State.DELIVERED,
        Cause.REPLIED,
        detail=text,
        run_id=text,
        reply=text,
        stop_reason=text,
    )

    answer = await ledger.scripts.settle(ledger.context, seed="", settlements=[odd, settlement(two)])

    assert answer.results == ("settled", "settled")
    assert await ledger.field("m1:1", "reply") == text.encode(errors="replace").decode()


async def test_the_history_is_told_line_by_line_and_stays_short(ledger: Ledger) -> None:
    """The first line is kept, the oldest others go."""
    await ledger.send("m1")
    sent_ms = ledger.time.now_ms
    await give_back(ledger, await take_one(ledger), Cause.BUSY)
    history = await ledger.field("m1:1", "history")
    assert history == f"{sent_ms}|waiting|\n{sent_ms}|running|\n{sent_ms}|waiting|busy\n"

    for _ in range(100):
        await ledger.time.advance(ms=1)
        await give_back(ledger, await take_one(ledger), Cause.OUTCOME_UNKNOWN)

    history = await ledger.field("m1:1", "history")
    assert history is not None
    assert len(history) <= ledger.rules.history_bytes + 50
    lines = history.splitlines()
    assert lines[0] == f"{sent_ms}|waiting|"
    assert lines[-1] == f"{ledger.time.now_ms}|waiting|outcome_unknown"
    assert [line.split("|")[1] for line in lines[-4:]] == ["running", "waiting", "running", "waiting"]
