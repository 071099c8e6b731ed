"""Take: order, leases, rates, expiry."""

from schemas.envelope import Priority
from schemas.delivery import Cause, State
from tests.support.ledger import Ledger, agent_id


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
