"""Hold and release: one dispatcher at a time moves a tenant's stream."""

from tests.redis.broker.shorthand import a_move, add_raw, move, refuse
from tests.support.ledger import OWNER, Ledger, agent_id


async def test_one_dispatcher_owns_the_stream(ledger: Ledger) -> None:
    """The second is turned away until the first gives up; the first may renew."""
    hold = ledger.scripts.hold_stream

    assert not await hold(ledger.context, owner="dispatcher-2", lease_ms=5_000)
    assert await hold(ledger.context, owner=OWNER, lease_ms=5_000)

    assert not await ledger.scripts.release_stream(ledger.context, owner="dispatcher-2")
    assert await ledger.scripts.release_stream(ledger.context, owner=OWNER)
    assert not await ledger.scripts.release_stream(ledger.context, owner=OWNER)
    assert await hold(ledger.context, owner="dispatcher-2", lease_ms=5_000)
    assert not await hold(ledger.context, owner=OWNER, lease_ms=5_000)


async def test_the_lease_runs_out_by_the_servers_clock(ledger: Ledger) -> None:
    """A dispatcher that fell silent loses the stream without anybody's help; holding again starts anew."""
    await ledger.scripts.hold_stream(ledger.context, owner=OWNER, lease_ms=5_000)
    assert 4_000 < await ledger.client.pttl(ledger.keys.dispatcher) <= 5_000

    await ledger.scripts.hold_stream(ledger.context, owner=OWNER, lease_ms=50_000)
    assert 49_000 < await ledger.client.pttl(ledger.keys.dispatcher) <= 50_000


async def test_who_does_not_own_the_stream_moves_nothing(ledger: Ledger) -> None:
    """A dispatcher that was slow is told so, whether another came or nobody did."""
    entry = await add_raw(ledger, {"message": "hello"})
    one = a_move(entry, "m1", agent_id(1))

    assert (await move(ledger, one, owner="dispatcher-2")).status == "lost"
    assert await refuse(ledger, entry, "m1", owner="dispatcher-2") == "lost"
    await ledger.scripts.release_stream(ledger.context, owner=OWNER)
    assert (await move(ledger, one)).status == "lost"
    assert await refuse(ledger, entry, "m1") == "lost"

    assert await ledger.client.xlen(ledger.keys.tasks) == 1
    assert await ledger.counters() == {}
