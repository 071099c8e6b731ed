"""THE ORDER. The first verdict that is not Allow wins.

Rates, the in-flight limit and one turn at a time are not here: they must be charged in the same step that takes
the delivery, across all processes, and so are in lua/take.lua.
"""

from schemas.verdict import Allow, Verdict
from workers.policies.contract import Facts, Policy
from workers.policies.expiry import expiry
from workers.policies.freshness import freshness
from workers.policies.hops import hops
from workers.policies.ownership import ownership

ORDER: tuple[Policy, ...] = (ownership, hops, expiry, freshness)


def judge(facts: Facts) -> Verdict:
    """May this delivery go now?"""
    for policy in ORDER:
        verdict = policy(facts)
        if not isinstance(verdict, Allow):
            return verdict
    return Allow()
