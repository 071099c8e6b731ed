"""A chain of agents that answer each other ends."""

from schemas.delivery import Cause
from schemas.envelope import HOP_LIMIT
from schemas.verdict import Allow, Drop, Verdict
from workers.policies.contract import Facts


def hops(facts: Facts) -> Verdict:
    """Drops what is HOP_LIMIT or more messages away from the root of its chain."""
    if facts.envelope.hops >= HOP_LIMIT:
        return Drop(Cause.LOOP, f"{facts.envelope.hops} hops from the root of its chain; the limit is {HOP_LIMIT}")
    return Allow()
