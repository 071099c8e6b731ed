"""Take: order, leases, rates, expiry."""

from datetime import UTC, datetime

import pytest

from schemas.delivery import Cause, State
from schemas.envelope import Priority
from tests.redis.broker.shorthand import (
    LEASE_MS,
    crash,
    events,
    give_back,
    record,
    rung,
    sweep,
    take_one,
    with_rules,
)
from tests.support.ledger import Ledger, agent_id
from workers.broker.rules import Pool
from workers.mailbox.places import RANK_WIDTH

WINDOW_MS = 61_001
URGENT, HIGH, NORMAL, LOW = Priority


async def test_first_in_first_out_within_a_priority(ledger: Ledger) -> None:
    """An agent gets its messages in the order in which they were published, one at a time."""
    for name in ("m1", "m2", "m3"):
        await ledger.send(name)

    order = []
    while batch := (await ledger.take()).taken:
        assert len(batch) == 1
        order.append(batch[0].id)
        assert await ledger.settle(batch[0]) == "settled"

    assert order == ["m1:1", "m2:1", "m3:1"]


async def test_the_more_urgent_goes_first_in_a_mailbox(ledger: Ledger) -> None:
    for priority in reversed(Priority):
        await ledger.send(priority.value, priority=priority)

    order = []
    for _ in Priority:
        taken = await take_one(ledger)
        order.append(taken.message_id)
        await ledger.settle(taken)

    assert order == ["urgent", "high", "normal", "low"]


async def test_the_more_urgent_goes_first_among_agents_and_then_who_waits_longest(ledger: Ledger) -> None:
    names = ("n1", NORMAL), ("l1", LOW), ("u1", URGENT), ("h1", HIGH), ("u2", URGENT), ("n2", NORMAL)
    for number, (name, priority) in enumerate(names):
        await ledger.send(name, agent_id(number), priority=priority)

    assert await ledger.take_ids() == ["u1:1", "u2:1", "h1:1", "n1:1", "n2:1", "l1:1"]


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (Pool.EXPRESS, ["urgent:1", "high:1"]),
        (Pool.STANDARD, ["urgent:1", "high:1", "normal:1", "low:1"]),
        (Pool.BULK, ["low:1", "normal:1", "high:1", "urgent:1"]),
    ],
)
async def test_each_pool_has_its_order(ledger: Ledger, pool: Pool, expected: list[str]) -> None:
    """Express never takes what is not urgent; bulk begins at the other end."""
    for number, priority in enumerate(Priority):
        await ledger.send(priority.value, agent_id(number), priority=priority)

    assert await ledger.take_ids(pool=pool) == expected


@pytest.mark.parametrize(("priority", "bound_ms"), [(HIGH, 15_000), (NORMAL, 60_000), (LOW, 300_000)])
async def test_among_agents_who_waited_past_the_bound_goes_first(
    ledger: Ledger, priority: Priority, bound_ms: int
) -> None:
    """Strictly past it: at the bound, urgent still goes first."""
    await ledger.send("old", agent_id(1), priority=priority)
    sent_us = ledger.time.now_us
    await ledger.send("urgent", agent_id(2), priority=URGENT)
    await ledger.time.advance(ms=bound_ms - (ledger.time.now_us - sent_us) / 1000)

    assert await ledger.take_ids(1) == ["urgent:1"]
    await ledger.send("urgent-2", agent_id(3), priority=URGENT)
    assert await ledger.take_ids(1) == ["old:1"]


@pytest.mark.parametrize(("priority", "bound_ms"), [(HIGH, 15_000), (NORMAL, 60_000), (LOW, 300_000)])
async def test_inside_a_mailbox_who_waited_past_the_bound_goes_first(
    ledger: Ledger, priority: Priority, bound_ms: int
) -> None:
    await ledger.send("old", priority=priority)
    sent_us = ledger.time.now_us
    for number in range(3):
        await ledger.send(f"u{number}", priority=URGENT)
    await ledger.time.advance(ms=bound_ms - (ledger.time.now_us - sent_us) / 1000)

    first = await take_one(ledger)
    assert first.id == "u0:1"
    await ledger.time.advance(ms=0.001)
    await ledger.settle(first)
    assert (await take_one(ledger)).id == "old:1"


async def test_of_several_past_their_bounds_the_oldest_goes_first(ledger: Ledger) -> None:
    """Whatever their priorities: in a mailbox and among agents."""
    for agent in (1, 2):
        for priority in (NORMAL, LOW, HIGH):
            await ledger.send(f"{priority}-{agent}", agent_id(agent), priority=priority)
    await ledger.send("urgent", agent_id(3), priority=URGENT)
    await ledger.time.advance(seconds=301)

    assert await ledger.take_ids() == ["normal-1:1", "normal-2:1", "urgent:1"]


async def test_a_less_urgent_one_that_may_not_go_yet_does_not_go_first(ledger: Ledger) -> None:
    """Past its bound, but backing off: the urgent one passes."""
    await ledger.send("old", priority=HIGH)
    await give_back(ledger, await take_one(ledger), due_in_ms=20_000)
    await ledger.time.advance(seconds=16)
    await ledger.send("urgent", priority=URGENT)

    assert await ledger.take_ids() == ["urgent:1"]


async def test_a_less_urgent_one_past_its_bound_goes_first_from_the_moment_it_may(ledger: Ledger) -> None:
    await ledger.send("old", priority=HIGH)
    await give_back(ledger, await take_one(ledger), due_in_ms=20_000)
    await ledger.send("urgent", priority=URGENT)
    await ledger.time.advance(seconds=19.999)
    await ledger.settle(await take_one(ledger))
    await ledger.send("urgent-2", priority=URGENT)
    await ledger.time.advance(ms=1)

    assert await ledger.take_ids() == ["old:1"]


async def test_one_turn_at_a_time_for_each_agent(ledger: Ledger) -> None:
    """However many workers take: an agent under a lease is skipped, urgent or not."""
    await ledger.send("m1")
    await ledger.send("m2", priority=URGENT)
    await ledger.send("m3", agent_id(2))

    assert await ledger.take_ids() == ["m2:1", "m3:1"]
    await ledger.send("m4", priority=URGENT)
    assert await ledger.take_ids() == []
    assert await ledger.take_ids(pool=Pool.EXPRESS) == []


async def test_turns_in_flight_are_limited(ledger: Ledger) -> None:
    """Over all workers and pools; what ends makes room for exactly one."""
    await ledger.register(in_flight=3)
    for number in range(6):
        await ledger.send(f"m{number}", agent_id(number))

    first = (await ledger.take(2)).taken
    second = await ledger.take(2)
    assert [one.id for one in second.taken] == ["m2:1"]
    assert not second.more
    assert await ledger.take_ids() == []

    await ledger.settle(first[0])
    assert await ledger.take_ids() == ["m3:1"]


async def test_a_suspended_or_unknown_tenant_gives_nothing(ledger: Ledger) -> None:
    await ledger.send("m1")
    await ledger.client.hset(ledger.keys.tenant, "suspended", 1)
    assert await ledger.take_ids() == []

    await ledger.client.hset(ledger.keys.tenant, "suspended", 0)
    assert await ledger.take_ids() == ["m1:1"]


async def test_what_is_taken_says_all_a_worker_needs(ledger: Ledger) -> None:
    """The first attempt: its fate was not open, it is from now on."""
    await ledger.send("m1", expires_in_ms=60_000)
    expires_at = ledger.time.now_ms + 60_000

    batch = await ledger.take()

    assert batch.now_ms == ledger.time.now_ms
    [one] = batch.taken
    assert (one.id, one.message_id, one.agent) == ("m1:1", "m1", agent_id(1))
    assert (one.attempt, one.epoch, one.fate_open, one.run_id) == (1, 1, False, None)
    assert one.opened_at_ms == ledger.time.now_ms
    assert one.expires_at_ms == expires_at
    assert one.accepted_at_ms == int((await record(ledger, "m1"))["accepted_at"])
    assert one.envelope == b'{"id":"m1","content":"hello"}'
    assert (await events(ledger))[-1] == ("m1:1", "running", "")
    holder = await ledger.client.hget(f"{ledger.keys.root}holders", agent_id(1))
    assert holder == f"{one.token}|m1:1|worker-1".encode()
    assert await ledger.client.zscore(ledger.keys.leases, agent_id(1)) == ledger.time.now_ms + LEASE_MS


async def test_fencing_tokens_only_grow(ledger: Ledger) -> None:
    tokens = []
    for number in range(4):
        await ledger.send(f"m{number}", agent_id(number % 2))
        taken = await take_one(ledger)
        tokens.append(taken.token)
        await ledger.settle(taken)

    assert tokens == sorted(set(tokens))


async def test_whoever_takes_over_knows_that_the_fate_is_open(ledger: Ledger) -> None:
    """The first worker fell silent: the second is told since when, and the run if there was one."""
    await ledger.send("m1")
    first = await take_one(ledger)
    await ledger.scripts.record_run(
        ledger.context, delivery_id=first.id, agent=first.agent, token=first.token, run_id="run-1"
    )
    await crash(ledger)

    second = await take_one(ledger)

    assert (second.fate_open, second.run_id, second.attempt, second.epoch) == (True, "run-1", 2, 1)
    assert second.opened_at_ms == first.opened_at_ms
    assert second.token > first.token


# Rates


@pytest.mark.parametrize("scope", ["tenant", "team", "agent"])
async def test_no_window_holds_more_turns_than_allowed(ledger: Ledger, scope: str) -> None:
    """Strict in every window of the window's length, wherever it begins; and at least 95 % is used."""
    limit, minutes = 5, 10
    setting = {"tenant": "per_minute", "team": "team_per_minute", "agent": "agent_per_minute"}[scope]
    await ledger.register(**{setting: limit})
    for number in range(limit * minutes + limit):
        await ledger.publish(f"m{number}")
        agent = agent_id(1 if scope == "agent" else number % 3)
        await ledger.dispatch(f"m{number}", agent, teams=("red", f"team-{number}"))
    begun, started = [], ledger.time.now_ms
    while ledger.time.now_ms - started < minutes * 60_000:
        batch = await ledger.take(pool=Pool.STANDARD)
        for one in batch.taken:
            begun.append(ledger.time.now_ms)
            await ledger.settle(one)
        if not batch.taken:
            # A look when it was told to, with steps that do not divide the window.
            await ledger.time.advance(ms=max(1, batch.next_look_ms - ledger.time.now_ms))
        else:
            await ledger.time.advance(ms=1_700)

    for at in begun:
        assert sum(at <= other <= at + 60_000 for other in begun) <= limit
    assert len(begun) >= 0.95 * limit * minutes


@pytest.mark.parametrize(("scope", "cause"), [("team", "rate_team"), ("agent", "rate_agent")])
async def test_an_agent_past_its_rate_waits_and_others_do_not(ledger: Ledger, scope: str, cause: str) -> None:
    """It says why, and until when; the others go on."""
    await ledger.register(**{f"{scope}_per_minute": 1})
    for name in ("m1", "m2"):
        await ledger.publish(name)
        await ledger.dispatch(name, teams=("red",))
    await ledger.send("m3", agent_id(2))
    began_ms = ledger.time.now_ms
    await ledger.settle(next(one for one in (await ledger.take(1)).taken))

    batch = await ledger.take()

    assert [one.id for one in batch.taken] == ["m3:1"]
    assert await ledger.field("m2:1", "cause") == cause
    assert await ledger.client.hget(ledger.keys.holds, agent_id(1)) == f"{began_ms + WINDOW_MS}|{cause}".encode()
    await ledger.settle(batch.taken[0])
    assert (await ledger.take()).next_look_ms == began_ms + WINDOW_MS
    await ledger.time.advance(ms=began_ms + WINDOW_MS - 1 - ledger.time.now_ms)
    assert await ledger.take_ids() == []
    await ledger.time.advance(ms=1)
    assert await ledger.take_ids() == ["m2:1"]


async def test_the_longest_of_several_windows_counts(ledger: Ledger) -> None:
    """Agent and teams: it goes when all of them let it."""
    await ledger.register(agent_per_minute=1, team_per_minute=1)
    await ledger.publish("m1")
    await ledger.dispatch("m1", agent_id(1), teams=("red",))
    await ledger.settle(await take_one(ledger))
    await ledger.time.advance(seconds=10)
    await ledger.publish("m2")
    await ledger.dispatch("m2", agent_id(2), teams=("blue",))
    await ledger.settle(await take_one(ledger))
    last_ms = ledger.time.now_ms

    await ledger.publish("m3")
    await ledger.dispatch("m3", agent_id(1), teams=("red", "blue", "green"))

    assert (await ledger.take()).next_look_ms == last_ms + WINDOW_MS
    assert await ledger.field("m3:1", "cause") == "rate_team"


async def test_past_its_rate_the_whole_tenant_waits(ledger: Ledger) -> None:
    """Nothing is taken, nobody is rung, and the time to look is told; then it goes on."""
    await ledger.register(per_minute=2)
    for number in range(4):
        await ledger.send(f"m{number}", agent_id(number))
    batch = await ledger.take()
    opens = ledger.time.now_ms + WINDOW_MS

    assert len(batch.taken) == 2
    assert not batch.more
    assert await rung(ledger) == set()
    for one in batch.taken:
        await ledger.settle(one)
    assert (await ledger.take()).next_look_ms == opens
    assert (await sweep(ledger)) == (opens, set())
    assert (await ledger.send("m4", agent_id(4))).pools == ()
    await ledger.time.advance(ms=WINDOW_MS)
    assert (await sweep(ledger))[1] == {"standard"}
    assert await ledger.take_ids() == ["m2:1", "m3:1"]


async def test_a_lowered_rate_counts_what_went_before(ledger: Ledger) -> None:
    """And a raised one does not forget it."""
    for number in range(6):
        await ledger.send(f"m{number}", agent_id(number))
    for one in (await ledger.take(3)).taken:
        await ledger.settle(one)
    await ledger.register(per_minute=3)
    assert await ledger.take_ids() == []

    await ledger.register(per_minute=4)
    await ledger.time.advance(ms=WINDOW_MS)
    assert await ledger.take_ids(1) == ["m3:1"]


async def test_what_goes_back_was_charged(ledger: Ledger) -> None:
    """A refund gives the attempt back, not the rate: the call may have been made."""
    await ledger.register(agent_per_minute=1)
    await ledger.send("m1")

    await give_back(ledger, await take_one(ledger), refund=True)

    assert await ledger.take_ids() == []
    assert await ledger.field("m1:1", "cause") == "rate_agent"


async def test_a_rate_window_is_no_longer_than_its_limit(ledger: Ledger) -> None:
    """However long the tenant is busy."""
    await ledger.register(agent_per_minute=2, per_minute=3)
    for number in range(8):
        await ledger.send(f"m{number}", agent_id(number % 2))
    for _ in range(4):
        for one in (await ledger.take()).taken:
            await ledger.settle(one)
        await ledger.time.advance(ms=WINDOW_MS)

    assert await ledger.client.llen(f"{ledger.keys.root}rate:tenant") == 3
    assert await ledger.client.llen(f"{ledger.keys.root}rate:agent:{agent_id(1)}") == 2


async def test_rate_windows_leave_no_keys(ledger: Ledger) -> None:
    """Each is as long as it must be and goes by itself."""
    await ledger.publish("m1")
    await ledger.dispatch("m1", teams=("red",))
    await ledger.take()

    windows = await ledger.client.keys(f"{ledger.keys.root}rate:*")
    assert len(windows) == 3
    for window in windows:
        assert WINDOW_MS <= await ledger.client.pttl(window) <= WINDOW_MS + 2_000


# Time


async def test_what_becomes_due_is_taken_in_its_old_place(ledger: Ledger) -> None:
    """Not before its time, and then before what was published later."""
    await ledger.send("m1", not_before_in_ms=5_000)
    await ledger.send("m2")
    await ledger.send("m3", agent_id(2), not_before_in_ms=5_000)

    await ledger.time.advance(ms=4_999)
    assert (await ledger.take(0)).taken == ()
    assert await ledger.client.zrange(ledger.keys.mailbox(agent_id(1)), 0, -1) == [b"m2:1"]
    await ledger.time.advance(ms=1)

    assert (await ledger.take(0)).more
    assert await ledger.field("m1:1", "cause") == ""
    assert await ledger.field("m1:1", "due") is None
    assert await ledger.take_ids() == ["m1:1", "m3:1"]


async def test_a_hold_by_hand_is_kept(ledger: Ledger) -> None:
    """An operator parks an agent that stands ready: it is passed over, and found again at its time."""
    await ledger.send("m1")
    await ledger.send("m2", agent_id(2))
    until = ledger.time.now_ms + 5_000
    await ledger.client.hset(ledger.keys.holds, agent_id(1), f"{until}|suspended")

    batch = await ledger.take()

    assert [one.id for one in batch.taken] == ["m2:1"]
    assert await ledger.client.zrange(ledger.keys.later, 0, -1, withscores=True) == [
        (f"a:{agent_id(1)}".encode(), until)
    ]
    await ledger.time.advance(ms=5_000)
    assert await ledger.take_ids() == ["m1:1"]


async def test_nothing_that_has_expired_is_taken(ledger: Ledger) -> None:
    """At its time it is over: recorded, told, and the next one goes instead, even past what one step moves."""
    one_step = with_rules(ledger, per_step=1)
    for number in range(3):
        await ledger.send(f"m{number}", expires_in_ms=1_000)
    await ledger.send("last")
    await ledger.time.advance(ms=999)
    assert (await ledger.take(0)).taken == ()
    await ledger.time.advance(ms=1)

    assert await one_step.take_ids(1) == []
    assert await one_step.take_ids(1) == ["last:1"]
    for number in range(3):
        assert await ledger.state(f"m{number}:1") == "expired"
    assert (await ledger.counters())["expired"] == 3


async def test_expired_with_an_open_fate_is_looked_at_first(ledger: Ledger) -> None:
    """Its call may have reached the agent: a worker finds out, and decides."""
    await ledger.send("m1", expires_in_ms=10_000)
    await ledger.take()
    await crash(ledger)

    assert (await sweep(ledger))[0] == 0
    again = await take_one(ledger)

    assert again.fate_open
    assert again.expires_at_ms is not None
    assert again.expires_at_ms <= ledger.time.now_ms


async def test_a_silent_worker_is_relieved_by_the_next_take(ledger: Ledger) -> None:
    """No sweeper needed: at the end of the lease, not before."""
    await ledger.send("m1")
    await ledger.take()

    await ledger.time.advance(ms=LEASE_MS - 1)
    assert await ledger.take_ids() == []
    await ledger.time.advance(ms=1)
    assert await ledger.take_ids() == ["m1:1"]


# Who comes next


async def test_more_says_whether_another_take_would_find_something(ledger: Ledger) -> None:
    """The claim of the pool is cleared in the same step as the look that found nothing more."""
    for number in range(3):
        await ledger.send(f"m{number}", agent_id(number))

    first = await ledger.take(2)
    assert first.more
    assert await rung(ledger) == {"standard"}
    last = await ledger.take(1)
    assert not last.more
    assert await rung(ledger) == set()
    assert (await ledger.send("m3", agent_id(3))).pools == (Pool.STANDARD,)


async def test_a_take_clears_the_claim_of_its_own_pool_only(ledger: Ledger) -> None:
    await ledger.send("m1", priority=LOW)
    await ledger.send("m2", agent_id(2), priority=HIGH)
    assert await rung(ledger) == {"bulk", "express"}

    await ledger.take(pool=Pool.EXPRESS)

    assert await rung(ledger) == {"bulk"}


async def test_one_that_had_to_look_at_too_many_says_that_there_is_more(ledger: Ledger) -> None:
    """A take is bounded: it passes over so many at most, and asks to be called again."""
    one_step = with_rules(ledger, per_step=2)
    await ledger.register(agent_per_minute=1)
    for number in range(4):
        await ledger.send(f"first-{number}", agent_id(number))
        await ledger.settle(await take_one(ledger))
    for number in range(4):
        await ledger.send(f"m{number}", agent_id(number))
    await ledger.send("last", agent_id(5))

    batch = await one_step.take(1)
    assert (batch.taken, batch.more) == ((), True)
    assert await rung(ledger) == {"standard"}
    assert [one.id for one in (await one_step.take(1)).taken] == ["last:1"]


@pytest.mark.parametrize("how", ["lease", "not_before", "backoff"])
async def test_work_for_another_pool_is_told_to_whoever_found_it(ledger: Ledger, how: str) -> None:
    """An express drain that takes back, or promotes, what is not urgent cannot take it: somebody must look now.

    Otherwise it would stand ready with nobody on the way.
    """
    if how == "not_before":
        await ledger.send("m1", not_before_in_ms=1_000)
    else:
        await ledger.send("m1")
        taken = await take_one(ledger)
        if how == "backoff":
            await give_back(ledger, taken, due_in_ms=1_000)
    await ledger.take()
    await ledger.time.advance(ms=LEASE_MS)

    batch = await ledger.take(pool=Pool.EXPRESS)

    assert batch.taken == ()
    assert batch.next_look_ms == ledger.time.now_ms
    assert (await sweep(ledger))[1] == {"standard"}
    assert (await ledger.take(pool=Pool.EXPRESS)).next_look_ms == 0


async def test_a_place_that_came_free_is_told_to_whoever_cannot_use_it(ledger: Ledger) -> None:
    """The tenant was at its limit; an express drain settles and takes again, and what waits is not for it."""
    await ledger.register(in_flight=1)
    await ledger.send("m1", priority=HIGH)
    await ledger.send("m2", agent_id(2))
    taken = (await ledger.take(pool=Pool.EXPRESS)).taken[0]
    assert (await ledger.take()).taken == ()

    await ledger.settle(taken, State.DELIVERED, Cause.REPLIED)
    await ledger.client.delete(f"{ledger.keys.root}rung")

    assert (await ledger.take(pool=Pool.EXPRESS)).next_look_ms == ledger.time.now_ms


async def test_the_next_look_is_the_earliest_of_all_that_will_happen(ledger: Ledger) -> None:
    """Leases, expiries, not-before, purges: each in its turn; never, where nothing will."""
    now = ledger.time.now_ms
    assert (await ledger.take()).next_look_ms == 0
    await ledger.send("m1", agent_id(1), expires_in_ms=30_000)
    await ledger.send("m2", agent_id(2), not_before_in_ms=20_000)
    await ledger.send("m3", agent_id(3), expires_in_ms=10_000, not_before_in_ms=50_000)
    first = await ledger.take()
    assert first.next_look_ms == now + 10_000
    pairs = [(agent_id(1), first.taken[0].token)]

    await ledger.scripts.cancel(ledger.context, message_id="m3")
    assert (await ledger.take()).next_look_ms == now + LEASE_MS
    await ledger.time.advance(ms=14_000)
    await ledger.scripts.renew(ledger.context, lease_ms=LEASE_MS, pairs=pairs)
    assert (await ledger.take()).next_look_ms == now + 20_000
    await ledger.scripts.cancel(ledger.context, message_id="m2")
    assert (await ledger.take()).next_look_ms == now + 14_000 + LEASE_MS
    await ledger.scripts.renew(ledger.context, lease_ms=LEASE_MS * 2, pairs=pairs)
    assert (await ledger.take()).next_look_ms == now + 30_000


async def test_time_that_goes_back_gives_nothing_twice(ledger: Ledger) -> None:
    """Redis' clock may be set: leases hold, order holds, windows hold."""
    await ledger.register(agent_per_minute=2)
    for name in ("m1", "m2", "m3"):
        await ledger.send(name)
    first = await take_one(ledger)
    await ledger.time.advance(seconds=-30)

    assert await ledger.take_ids() == []
    await ledger.settle(first)
    second = await take_one(ledger)
    assert second.id == "m2:1"
    await ledger.settle(second)
    assert await ledger.take_ids() == []


async def test_places_are_exact_to_the_microsecond_until_2036(ledger: Ledger) -> None:
    """Priority and arrival share one double: neither may lose a digit, and neighbours stay neighbours."""
    last_us = int(datetime(2036, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
    await ledger.time.advance(ms=(last_us - ledger.time.now_us) / 1000)
    await ledger.time.advance(ms=(last_us - ledger.time.now_us) / 1000)
    for number in range(4):
        await ledger.send(f"m{number}", priority=LOW)

    box = await ledger.client.zrange(ledger.keys.mailbox(agent_id(1)), 0, -1, withscores=True)

    assert [int(score) - 3 * RANK_WIDTH - last_us for _, score in box] == [1, 2, 3, 4]
    [(_, arrival)] = await ledger.client.zrange(ledger.keys.ready(LOW.rank), 0, -1, withscores=True)
    assert int(arrival) == last_us + 1
