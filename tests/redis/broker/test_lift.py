"""Lift: changed limits hold at once, and lift nothing else."""

from schemas.delivery import Cause, State
from tests.support.ledger import Ledger, agent_id


async def test_what_a_rate_held_goes_as_soon_as_the_limit_is_raised(ledger: Ledger) -> None:
    await ledger.register(agent_per_minute=1)
    for name in ("m1", "m2"):
        await ledger.send(name)
    (first,) = (await ledger.take()).taken
    await ledger.settle(first)
    assert await ledger.take_ids() == []

    await ledger.register(agent_per_minute=2)
    assert await ledger.scripts.lift(ledger.context) == (0, 1)

    assert await ledger.take_ids() == ["m2:1"]


async def test_other_holds_stay(ledger: Ledger) -> None:
    """A busy agent is still busy, and a quota of the server's own is still used up."""
    await ledger.send("m1", agent_id(1))
    await ledger.send("m2", agent_id(2))
    busy, throttled = (await ledger.take()).taken
    await ledger.settle(busy, State.WAITING, Cause.BUSY, hold="agent", hold_ms=5_000)
    await ledger.settle(throttled, State.WAITING, Cause.THROTTLED, hold="tenant", hold_ms=5_000)

    assert await ledger.scripts.lift(ledger.context) == (0, 0)

    assert await ledger.take_ids() == []
