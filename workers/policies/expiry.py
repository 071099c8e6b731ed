"""No turn starts after the expiry: the third look, right before the call (publish and take had theirs)."""

from schemas.delivery import Cause
from schemas.verdict import Allow, Drop, Verdict
from workers.policies.contract import Facts


def expiry(facts: Facts) -> Verdict:
    """Drops what has expired."""
    expires_at_ms = facts.taken.expires_at_ms
    if expires_at_ms is not None and facts.now_ms >= expires_at_ms:
        return Drop(Cause.TTL)
    return Allow()
