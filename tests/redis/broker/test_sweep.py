"""Sweep and ring: what nobody came for is found, and nothing is kept for ever."""

import pytest

from schemas.delivery import Cause, State
from schemas.envelope import Priority
from tests.redis.broker.shorthand import (
    LEASE_MS,
    add_raw,
    crash,
    events,
    give_back,
    letters,
    rung,
    sweep,
    take_one,
    with_rules,
)
from tests.support.ledger import Ledger, agent_id
from workers.broker.rules import Pool


async def test_what_becomes_due_is_rung_for(ledger: Ledger) -> None:
    """At its time, by whoever looks: not-before, backoff, holds."""
    now_ms = ledger.time.now_ms
    await ledger.send("m1", agent_id(1), not_before_in_ms=1_000)
    await ledger.send("m2", agent_id(2))
    await give_back(ledger, await take_one(ledger), due_in_ms=2_000)
    await ledger.send("m3", agent_id(3))
    await give_back(ledger, await take_one(ledger), hold="agent", hold_ms=3_000)
    await ledger.take()

    assert await sweep(ledger) == (now_ms + 1_000, set())
    for number, then in ((1, 2_000), (2, 3_000), (3, 1_000 + LEASE_MS)):
        await ledger.time.advance(ms=now_ms + 1_000 * number - ledger.time.now_ms)
        assert await sweep(ledger) == (now_ms + then, {"standard"})
        assert await ledger.take_ids() == [f"m{number}:1"]


async def test_a_silent_worker_is_relieved(ledger: Ledger) -> None:
    """Its turn waits again in its old place, its fate open; the agent is free; a drain is rung for."""
    await ledger.send("m1")
    await ledger.send("m2")
    await ledger.take()

    await ledger.time.advance(ms=LEASE_MS - 1)
    assert await sweep(ledger) == (ledger.time.now_ms + 1, set())
    assert await ledger.state("m1:1") == "running"
    await ledger.time.advance(ms=1)
    assert await sweep(ledger) == (0, {"standard"})

    assert await ledger.state("m1:1") == "waiting"
    assert await ledger.field("m1:1", "cause") == "recovered"
    assert await ledger.field("m1:1", "crashes") == "1"
    assert (await events(ledger))[-1] == ("m1:1", "waiting", "recovered")
    assert await ledger.take_ids() == ["m1:1"]


async def test_what_takes_its_workers_down_is_poison(ledger: Ledger) -> None:
    """After so many it is a dead letter, and what was behind it goes on."""
    await ledger.send("m1")
    await ledger.send("m2")
    for _ in range(ledger.rules.max_crashes):
        assert (await take_one(ledger)).id == "m1:1"
        await crash(ledger)

    assert await ledger.state("m1:1") == "dead"
    [letter] = await letters(ledger)
    assert (letter["cause"], letter["attempts"]) == (b"poison", b"3")
    assert letter["detail"] == b"its worker fell silent 3 times"
    assert await ledger.take_ids() == ["m2:1"]


async def test_a_lease_without_a_holder_frees_its_agent(ledger: Ledger) -> None:
    """Should it ever be: nobody waits for it for ever."""
    await ledger.client.zadd(ledger.keys.leases, {agent_id(1): ledger.time.now_ms})

    await sweep(ledger)

    assert await ledger.client.exists(ledger.keys.leases) == 0


async def test_what_expires_is_over_where_it_waits(ledger: Ledger) -> None:
    """In the mailbox, behind a backoff, before its time: at its expiry, without a worker."""
    await ledger.send("m1", agent_id(1), expires_in_ms=1_000)
    await ledger.send("m2", agent_id(2), expires_in_ms=1_000, not_before_in_ms=5_000)
    await ledger.send("m3", agent_id(3), expires_in_ms=1_000)
    await ledger.send("m4", agent_id(3))
    behind = await ledger.take(1, pool=Pool.BULK)
    assert [one.id for one in behind.taken] == ["m1:1"]
    await give_back(ledger, behind.taken[0], due_in_ms=60_000)
    await ledger.time.advance(ms=999)
    await sweep(ledger)
    assert await ledger.state("m2:1") == "waiting"

    await ledger.time.advance(ms=1)
    await sweep(ledger)

    for number in (1, 2, 3):
        assert await ledger.state(f"m{number}:1") == "expired"
        assert await ledger.field(f"m{number}:1", "cause") == "ttl"
    assert await ledger.take_ids() == ["m4:1"]


async def test_what_expires_while_the_server_is_away_says_so(ledger: Ledger) -> None:
    """By the sweeper or by a take, as long as somebody said so lately; and it ends as ever."""
    for number in (1, 2, 3):
        await ledger.send(f"m{number}", agent_id(number), expires_in_ms=1_000 * number)
    await ledger.time.advance(ms=999)
    assert await ledger.scripts.note_away(ledger.context, for_ms=1_500)
    await ledger.time.advance(ms=1)
    await sweep(ledger)
    await ledger.time.advance(ms=1_000)
    assert await ledger.take_ids() == ["m3:1"]
    await ledger.send("m4", agent_id(4), expires_in_ms=1_000)
    await ledger.time.advance(ms=1_000)
    await sweep(ledger)

    states = {f"m{number}": await ledger.state(f"m{number}:1") for number in (1, 2, 4)}
    details = {f"m{number}": await ledger.field(f"m{number}:1", "detail") for number in (1, 2, 4)}
    assert set(states.values()) == {"expired"}
    assert details == {"m1": "the Letta server was away", "m2": "the Letta server was away", "m4": ""}


async def test_a_step_is_bounded_and_says_that_there_is_more(ledger: Ledger) -> None:
    """Of each kind of work so much; what is left is due now, and the next step does it."""
    small = with_rules(ledger, per_step=2)
    for number in range(5):
        await ledger.send(f"expiring-{number}", agent_id(number), expires_in_ms=1_000)
        await ledger.send(f"later-{number}", agent_id(10 + number), not_before_in_ms=1_000)
        await ledger.send(f"running-{number}", agent_id(20 + number), priority=Priority.URGENT)
    assert len((await ledger.take(pool=Pool.EXPRESS)).taken) == 5
    await ledger.time.advance(ms=LEASE_MS)

    for left in (3, 1):
        next_look, _ = await sweep(small)
        assert next_look <= ledger.time.now_ms
        assert await ledger.client.zcard(f"{ledger.keys.root}expiries") == left
        assert await ledger.client.zcard(ledger.keys.leases) == left
        assert await ledger.client.zcard(ledger.keys.later) == left
    next_look, _ = await sweep(small)
    assert next_look > ledger.time.now_ms


async def test_what_ended_long_ago_leaves_no_key(ledger: Ledger) -> None:
    """Seven days after its end, not after its beginning; then its id may be used again."""
    await ledger.send("m1", agent_id(1), agent_id(2))
    await ledger.publish("m2")
    await ledger.scripts.cancel(ledger.context, message_id="m2")
    for one in (await ledger.take()).taken:
        await ledger.time.advance(ms=1_000)
        await ledger.settle(one)
    await ledger.time.advance(ms=ledger.rules.kept_ms - 1)
    await sweep(ledger)
    assert await ledger.publish("m1") == "duplicate"

    await ledger.time.advance(ms=1)
    assert (await sweep(ledger))[0] == 0

    left = {key.decode().removeprefix(ledger.keys.root) for key in await ledger.client.keys(f"{ledger.keys.root}*")}
    windows = {name for name in left if name.startswith("rate:")}
    assert left - windows <= {"tenant", "dispatcher", "counters", "events", "rung", "tasks"}
    assert await ledger.publish("m1") == "accepted"


async def test_what_has_a_dead_letter_is_kept(ledger: Ledger) -> None:
    """Until somebody redrives or discards it."""
    await ledger.send("m1", agent_id(1), agent_id(2))
    one, two = (await ledger.take()).taken
    await ledger.settle(one, State.DEAD, Cause.ATTEMPTS)
    await ledger.settle(two)
    await ledger.time.advance(ms=ledger.rules.kept_ms * 2)

    assert (await sweep(ledger))[0] == 0

    assert await ledger.state("m1:1") == "dead"
    assert await ledger.state("m1:2") == "delivered"


async def test_old_events_go(ledger: Ledger) -> None:
    """Capped by age, not by number: at the next event past it (Redis trims in whole nodes)."""
    await ledger.register(max_bytes=10**9)
    for number in range(300):
        await ledger.publish(f"m{number}")
    await ledger.time.advance(ms=ledger.rules.kept_ms * 2)

    await ledger.publish("last")

    assert await ledger.client.xlen(ledger.keys.events) < 200


async def test_an_old_claim_is_named_and_its_work_goes_to_the_pool_that_takes_everything(ledger: Ledger) -> None:
    """Express is full, or its job was lost: urgent work does not wait for it."""
    await ledger.publish("m1")
    await ledger.dispatch("m1", priority=Priority.URGENT, seed="job|1")
    await ledger.time.advance(ms=1_000)
    young = await ledger.scripts.sweep(ledger.context, seed="s", overflow_ms=1_000)
    assert (young.claims, young.pools) == ((), ())

    await ledger.time.advance(ms=1)
    old = await ledger.scripts.sweep(ledger.context, seed="job|2", overflow_ms=1_000)

    assert old.claims == ((Pool.EXPRESS, "job|1"),)
    assert old.pools == (Pool.STANDARD,)
    again = await ledger.scripts.sweep(ledger.context, seed="s", overflow_ms=1_000)
    assert (again.claims, again.pools) == (((Pool.EXPRESS, "job|1"),), ())
    assert await ledger.take_ids() == ["m1:1"]


async def test_work_that_nobody_was_rung_for_is_found(ledger: Ledger) -> None:
    """Claims may be lost with arq's keys: the work is not."""
    await ledger.send("m1")
    await ledger.send("m2", agent_id(2), priority=Priority.LOW)
    await ledger.client.delete(f"{ledger.keys.root}rung")

    assert (await sweep(ledger))[1] == {"standard", "bulk"}
    assert (await sweep(ledger))[1] == set()


@pytest.mark.parametrize("why", ["suspended", "held", "full"])
async def test_nobody_is_rung_for_what_cannot_go(ledger: Ledger, why: str) -> None:
    await ledger.send("m1")
    await ledger.send("m2", agent_id(2))
    taken = await take_one(ledger, limit=1)
    await ledger.client.delete(f"{ledger.keys.root}rung")
    if why == "suspended":
        await ledger.client.hset(ledger.keys.tenant, "suspended", 1)
    elif why == "held":
        await give_back(ledger, taken, hold="tenant", hold_ms=60_000)
        await ledger.client.delete(f"{ledger.keys.root}rung")
    else:
        await ledger.register(in_flight=1)

    assert (await sweep(ledger))[1] == set()


async def test_a_claim_is_made_anew_for_whoever_hands_on(ledger: Ledger) -> None:
    """A drain whose time is over queues the next one: the claim carries its job and its time."""
    await ledger.publish("m1")
    await ledger.dispatch("m1", seed="first")
    await ledger.time.advance(ms=5_000)

    await ledger.scripts.ring(ledger.context, pool=Pool.STANDARD, seed="second")

    claim = await ledger.client.hget(f"{ledger.keys.root}rung", "standard")
    assert claim == f"second|{ledger.time.now_ms}".encode()
    assert await rung(ledger) == {"standard"}


async def test_a_dead_dispatcher_loses_nothing(ledger: Ledger) -> None:
    """What is on the stream stays there, whoever sweeps."""
    await add_raw(ledger, {"message": "hello"})
    await ledger.time.advance(ms=ledger.rules.kept_ms * 10)

    await sweep(ledger)

    assert await ledger.client.xlen(ledger.keys.tasks) == 1


async def test_old_events_of_a_tenant_where_nothing_happens_any_more_go(ledger: Ledger) -> None:
    """Nobody writes one, so nobody drops one: the sweep does, a part at a time, and keeps what is younger."""
    small = with_rules(ledger, per_step=3)
    old, young = ledger.time.now_ms - ledger.rules.kept_ms - 5, ledger.time.now_ms - ledger.rules.kept_ms
    fields = {"message": "m", "delivery": "", "agent": "", "state": "accepted", "cause": ""}
    for number in range(7):
        await ledger.client.xadd(ledger.keys.events, fields, id=f"{old}-{number}")
    for number in range(2):
        await ledger.client.xadd(ledger.keys.events, fields, id=f"{young}-{number}")
    lengths = []
    for _ in range(4):
        await sweep(small)
        lengths.append(await ledger.client.xlen(ledger.keys.events))

    assert lengths[0] < 9
    assert lengths[-1] == 2
