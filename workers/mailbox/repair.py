"""The repair: puts right what the ledger entries tell, one small script for each finding. Deletes no message."""

from collections.abc import Iterable

from schemas.context import Context
from workers.broker import agenda
from workers.broker.rules import Rules
from workers.broker.scripts import Scripts
from workers.clock import Clock
from workers.mailbox.audit import LOOKS, audit
from workers.mailbox.finding import Finding, Mend

_ORDER = (Mend.MESSAGE, Mend.AGENT, Mend.DELIVERY)
"""A lease of nothing goes before the delivery that it kept from its mailbox. Counters come last, and anew."""


async def repair(
    context: Context,
    scripts: Scripts,
    clock: Clock,
    findings: Iterable[Finding],
    *,
    rules: Rules | None = None,
    looks: int = LOOKS,
) -> list[Finding]:
    """Mends what can be mended; what does not add up then.

    Nothing where a key is of the wrong type: a script would stop at it, halfway.
    """
    some = list(findings)
    if any(one.kind == "type" for one in some):
        return some
    for mend in _ORDER:
        for finding in some:
            if finding.mend is mend:
                await _mend(context, scripts, finding)
    left = await audit(context, scripts.client, clock, rules=rules, looks=looks)
    if not any(one.mend is Mend.COUNTER for one in left):
        return left
    for finding in left:
        if finding.mend is Mend.COUNTER:
            await scripts.recount(context, counter=finding.id, drift=finding.drift)
    return await audit(context, scripts.client, clock, rules=rules, looks=looks)


async def _mend(context: Context, scripts: Scripts, finding: Finding) -> None:
    match finding.mend:
        case Mend.MESSAGE:
            look = await scripts.repair_message(context, message_id=finding.id)
        case Mend.AGENT:
            look = await scripts.repair_agent(context, agent=finding.id)
        case _:
            look = await scripts.repair_delivery(context, delivery_id=finding.id, agent=finding.agent)
    await agenda.note(context, scripts.client, look)
