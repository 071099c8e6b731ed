"""Abandon: what a dead process held is free at once, and nobody else's is touched."""

from tests.redis.broker.shorthand import events, letters, sweep, take_one, with_rules
from tests.support.ledger import OWNER, Ledger, agent_id
from workers.broker.results import Abandoned
from workers.broker.rules import Pool


async def abandon(ledger: Ledger, owner: str = "worker-1", cursor: int = 0) -> Abandoned:
    return await ledger.scripts.abandon(ledger.context, owner=owner, cursor=cursor, seed="abandoned")


async def test_a_dead_workers_turns_wait_again_at_once(ledger: Ledger) -> None:
    """In their old place, the fate open, the crash counted, and a drain is rung for: as when the lease had run out."""
    await ledger.send("m1")
    await ledger.send("m2")
    first = await take_one(ledger)

    freed = await abandon(ledger)

    assert (freed.leases, freed.stream, freed.next_cursor, freed.pools) == (1, False, 0, (Pool.STANDARD,))
    assert await ledger.state("m1:1") == "waiting"
    assert await ledger.field("m1:1", "cause") == "recovered"
    assert await ledger.field("m1:1", "crashes") == "1"
    assert (await events(ledger))[-1] == ("m1:1", "waiting", "recovered")
    again = await take_one(ledger, owner="worker-2")
    assert (again.id, again.fate_open, again.attempt) == ("m1:1", True, 2)
    assert again.token > first.token
    assert await ledger.settle(first) == "lost"


async def test_other_workers_keep_their_turns(ledger: Ledger) -> None:
    """Also one whose name begins as the dead one's does."""
    await ledger.send("m1", agent_id(1))
    mine = await take_one(ledger, owner="worker-1")
    await ledger.send("m2", agent_id(2))
    await take_one(ledger, owner="worker-10")

    assert (await abandon(ledger)).leases == 1

    assert await ledger.state("m2:1") == "running"
    assert await ledger.client.zrange(ledger.keys.leases, 0, -1) == [agent_id(2).encode()]
    assert await ledger.client.hkeys(ledger.keys.holders) == [agent_id(2).encode()]
    assert (await take_one(ledger)).id == mine.id


async def test_the_dead_is_buried_once(ledger: Ledger) -> None:
    """A repetition finds nothing and counts no second crash."""
    await ledger.send("m1")
    await ledger.take()
    await abandon(ledger)

    assert await abandon(ledger) == Abandoned(0, 0, stream=False, next_look_ms=0, pools=())
    assert await ledger.field("m1:1", "crashes") == "1"
    await ledger.time.advance(ms=60_000)
    await sweep(ledger)
    assert await ledger.field("m1:1", "crashes") == "1"


async def test_what_kills_its_workers_is_poison_however_they_are_missed(ledger: Ledger) -> None:
    """Deaths that were seen and leases that ran out count alike."""
    await ledger.send("m1")
    for _ in range(ledger.rules.max_crashes - 1):
        await take_one(ledger)
        await abandon(ledger)
    await take_one(ledger)
    await ledger.time.advance(ms=15_000)
    await sweep(ledger)

    assert await ledger.state("m1:1") == "dead"
    [letter] = await letters(ledger)
    assert letter["cause"] == b"poison"
    assert (await abandon(ledger)).leases == 0


async def test_the_last_death_of_poison_frees_who_waits_behind_it(ledger: Ledger) -> None:
    await ledger.send("m1")
    await ledger.send("m2")
    rung = []
    for _ in range(ledger.rules.max_crashes):
        assert (await take_one(ledger)).id == "m1:1"
        rung.append((await abandon(ledger)).pools)

    assert await ledger.state("m1:1") == "dead"
    assert rung == [(Pool.STANDARD,)] * ledger.rules.max_crashes
    assert await ledger.take_ids() == ["m2:1"]


async def test_a_dead_dispatcher_gives_its_stream_up(ledger: Ledger) -> None:
    assert not (await abandon(ledger, "dispatcher-2")).stream
    assert not await ledger.scripts.hold_stream(ledger.context, owner="dispatcher-2", lease_ms=5_000)

    assert (await abandon(ledger, OWNER)).stream

    assert await ledger.scripts.hold_stream(ledger.context, owner="dispatcher-2", lease_ms=5_000)


async def test_many_leases_are_walked_over_in_steps(ledger: Ledger) -> None:
    """Each bounded; together they leave nothing."""
    small = with_rules(ledger, per_step=10)
    await ledger.register(in_flight=1_000)
    for number in range(300):
        await ledger.send(f"m{number}", agent_id(number))
    assert len((await ledger.take(300)).taken) == 300

    cursor = leases = steps = 0
    while not steps or cursor:
        step = await abandon(small, cursor=cursor)
        cursor, leases, steps = step.next_cursor, leases + step.leases, steps + 1

    assert leases == 300
    assert await ledger.client.exists(ledger.keys.leases, ledger.keys.holders) == 0
    assert len(await ledger.take_ids(300)) == 300
