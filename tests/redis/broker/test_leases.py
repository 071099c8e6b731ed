"""Renew and record_run: what a worker may still do while its lease lasts."""

from tests.redis.broker.shorthand import LEASE_MS, crash, take_one
from tests.support.ledger import Ledger, agent_id


async def test_a_renewed_lease_lasts_from_now(ledger: Ledger) -> None:
    await ledger.send("m1")
    taken = await take_one(ledger)
    await ledger.time.advance(ms=10_000)

    lost = await ledger.scripts.renew(ledger.context, lease_ms=LEASE_MS, pairs=[(taken.agent, taken.token)])

    assert lost == frozenset()
    assert await ledger.client.zscore(ledger.keys.leases, taken.agent) == ledger.time.now_ms + LEASE_MS


async def test_renewing_names_the_leases_that_are_lost(ledger: Ledger) -> None:
    """A token of before, a token of another, an agent that nobody holds: named, and nothing is given."""
    await ledger.send("m1", agent_id(1), agent_id(2))
    one, two = (await ledger.take()).taken
    await ledger.settle(two)
    pairs = [(one.agent, one.token), (one.agent, one.token - 1), (two.agent, two.token), (agent_id(9), 1)]

    lost = await ledger.scripts.renew(ledger.context, lease_ms=LEASE_MS, pairs=pairs[2:])
    assert lost == {two.agent, agent_id(9)}
    assert await ledger.scripts.renew(ledger.context, lease_ms=LEASE_MS, pairs=[]) == frozenset()
    assert await ledger.scripts.renew(ledger.context, lease_ms=1, pairs=pairs[1:2]) == {one.agent}
    assert await ledger.client.zrange(ledger.keys.leases, 0, -1, withscores=True) == [
        (one.agent.encode(), ledger.time.now_ms + LEASE_MS)
    ]


async def test_a_lease_that_was_taken_back_is_not_renewed(ledger: Ledger) -> None:
    """Neither before another has it nor after."""
    await ledger.send("m1")
    first = await take_one(ledger)
    mine = [(first.agent, first.token)]
    await crash(ledger)

    assert await ledger.scripts.renew(ledger.context, lease_ms=LEASE_MS, pairs=mine) == {first.agent}
    assert await ledger.client.exists(ledger.keys.leases) == 0
    second = await take_one(ledger)
    assert await ledger.scripts.renew(ledger.context, lease_ms=1, pairs=mine) == {first.agent}
    assert await ledger.client.zscore(ledger.keys.leases, second.agent) == ledger.time.now_ms + LEASE_MS


async def test_a_lease_past_its_end_that_nobody_took_back_goes_on(ledger: Ledger) -> None:
    """The worker was only slow, and nobody noticed."""
    await ledger.send("m1")
    taken = await take_one(ledger)
    await ledger.time.advance(ms=LEASE_MS + 1)

    pairs = [(taken.agent, taken.token)]
    assert await ledger.scripts.renew(ledger.context, lease_ms=LEASE_MS, pairs=pairs) == frozenset()
    assert await ledger.take_ids() == []


async def test_the_run_is_stored_under_the_lease(ledger: Ledger) -> None:
    """With the time: the server has taken the turn."""
    await ledger.send("m1")
    taken = await take_one(ledger)
    await ledger.time.advance(ms=40)

    stored = await ledger.scripts.record_run(
        ledger.context, delivery_id=taken.id, agent=taken.agent, token=taken.token, run_id="run-1"
    )

    assert stored
    assert await ledger.field("m1:1", "run") == "run-1"
    assert await ledger.field("m1:1", "delivered_at") == str(ledger.time.now_ms)


async def test_a_worker_that_lost_its_lease_stores_no_run(ledger: Ledger) -> None:
    """It could overwrite the run of the worker that has it now."""
    await ledger.send("m1")
    first = await take_one(ledger)
    await crash(ledger)

    async def store(run_id: str, token: int) -> bool:
        return await ledger.scripts.record_run(
            ledger.context, delivery_id="m1:1", agent=first.agent, token=token, run_id=run_id
        )

    assert not await store("run-1", first.token)
    second = await take_one(ledger)
    assert await store("run-2", second.token)
    assert not await store("run-1", first.token)
    assert await ledger.field("m1:1", "run") == "run-2"


async def test_what_may_have_taken_workers_down_goes_one_at_a_time(ledger: Ledger) -> None:
    """Two deliveries that were in the same hands when these fell silent: only one of them is the poison."""
    for number in (1, 2):
        await ledger.send(f"m{number}", agent_id(number))
    for _ in range(ledger.rules.max_crashes - 1):
        assert len(await ledger.take_ids()) == 2
        await ledger.time.advance(seconds=16)
    one = await take_one(ledger)
    assert one.crashes == ledger.rules.max_crashes - 1
    assert one.is_suspect(ledger.rules.max_crashes)
    other = "m2:1" if one.id == "m1:1" else "m1:1"
    assert await ledger.field(other, "cause") == "suspect"
    await ledger.send("m3", agent_id(3))
    assert await ledger.take_ids() == ["m3:1"]

    await ledger.time.advance(seconds=16)
    await ledger.scripts.sweep(ledger.context, seed="s", overflow_ms=1000)
    assert await ledger.state(one.id) == "dead"
    assert await ledger.take_ids() == [other, "m3:1"]


async def test_a_suspect_that_ends_well_lets_the_next_one_go(ledger: Ledger) -> None:
    for number in (1, 2):
        await ledger.send(f"m{number}", agent_id(number))
    for _ in range(ledger.rules.max_crashes - 1):
        await ledger.take_ids()
        await ledger.time.advance(seconds=16)
    one = await take_one(ledger)
    await ledger.settle(one)
    await ledger.time.advance(seconds=1)
    assert len(await ledger.take_ids()) == 1
