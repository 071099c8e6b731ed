"""A call begins soon after its take, or not at all.

The rate windows were charged at the take and have a pad (WINDOW_PAD_MS): a call that begins later than part of
it could crowd the next window. And a lease that is nearly over may be another worker's before the call is out.
"""

from schemas.delivery import Cause
from schemas.verdict import Allow, Verdict, Wait
from workers.broker.rules import CALL_WITHIN_MS
from workers.policies.contract import Facts

LEASE_MARGIN_MS = 2_000


def freshness(facts: Facts) -> Verdict:
    """Sends back what was taken too long ago."""
    if facts.since_taken_ms > CALL_WITHIN_MS or facts.lease_left_ms < LEASE_MARGIN_MS:
        return Wait(0, Cause.RETURNED, f"taken {facts.since_taken_ms} ms before its call")
    return Allow()
