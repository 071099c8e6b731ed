"""An agent without the tenant's tag is, for this tenant, an unknown agent."""

from schemas.delivery import Cause
from schemas.verdict import Allow, Drop, Verdict
from workers.policies.contract import Facts


def ownership(facts: Facts) -> Verdict:
    """Drops what is for an agent that is gone or another tenant's; nobody learns which."""
    if facts.agent is None:
        return Drop(Cause.UNKNOWN_AGENT, "the tenant has no such agent (any more)")
    return Allow()
