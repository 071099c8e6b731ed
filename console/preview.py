"""Before a send to many: to whom it would go, what it would take, and whether somebody has to say yes first."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import typer

from console.output import Column, Form, Listing, err
from console.session import Session
from console.times import span
from schemas.address import AgentAddress, SelectorAddress, TeamAddress, in_short
from schemas.agent import Agent, tenant_tag
from schemas.context import Context
from workers.bus.estimate import Estimate, estimate
from workers.directory.agents import AmbiguousAgent, Roster, UnknownAgent
from workers.directory.selection import Selection, members, select
from workers.directory.teams import Teams
from workers.errors import NotFoundError, RefusedError

ASK_PAST = 10
"""A send to more agents is asked about first."""
FRESH_SECONDS = 5.0
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Preview:
    """Who would get a message."""

    to: AgentAddress | TeamAddress | SelectorAddress
    selection: Selection
    estimate: Estimate

    @property
    def number(self) -> int:
        """How many agents."""
        return len(self.selection.agents)


AGENTS: Listing[Agent] = Listing(
    columns=(
        Column("name", lambda agent: agent.name),
        Column("id", lambda agent: agent.id),
        Column("tags", lambda agent: " ".join(agent.tags), wide=True),
    ),
    name=lambda agent: agent.name,
    document=lambda agent: agent.model_dump(mode="json"),
    nothing="nobody fits",
)


async def preview(
    opened: Session,
    context: Context,
    to: AgentAddress | TeamAddress | SelectorAddress,
    content: str,
    *,
    operator: bool,
) -> Preview:
    """Looks the address up as the dispatcher will.

    Raises:
        NotFoundError: there is nobody of that name, or no such team.
        RefusedError: nobody fits, or everybody, and no operator says so.
        LettaUnavailableError: the agents were never read, and the server does not answer.
    """
    async with opened.directory() as directory:
        roster = await directory.recent(context, FRESH_SECONDS)
    selection = await _selection(opened, context, to, roster, operator=operator)
    if not selection.agents:
        canaries = f" ({_canaries(len(selection.canaries))} left out: --canaries)" if selection.canaries else ""
        raise RefusedError(f"nobody in tenant {context.tenant!r} fits{canaries}", where=in_short(to))
    tenant = await opened.tenants.show(opened.operator, context.tenant)
    cost = await estimate(context, opened.client, tenant.limits, recipients=len(selection.agents), content=content)
    return Preview(to, selection, cost)


async def _selection(
    opened: Session,
    context: Context,
    to: AgentAddress | TeamAddress | SelectorAddress,
    roster: Roster,
    *,
    operator: bool,
) -> Selection:
    match to:
        case SelectorAddress():
            if to.is_unscoped(own_tag=tenant_tag(context.tenant)) and not operator:
                said = "this is every agent of the tenant: narrow it by --tags or a name, or say --everyone"
                raise RefusedError(said, where=in_short(to))
            return select(roster.by_id.values(), to, canary_prefix=opened.settings.canary_prefix)
        case TeamAddress():
            team = (await Teams(opened.client).all(context)).get(to.team)
            canaries = opened.settings.canary_prefix
            ids = members(team, to.team, roster.by_id, to.role, canary_prefix=canaries)
            if team is None and not ids:
                raise NotFoundError(f"there is no team {to.team!r} in tenant {context.tenant!r}")
            # A member that the server no longer has gets a delivery, too, which is refused.
            return Selection(tuple(roster.by_id.get(id_, Agent(id=id_, name="(gone)")) for id_ in ids), (), ())
        case AgentAddress():
            found = roster.find(to.agent)
            match found:
                case UnknownAgent():
                    raise NotFoundError(f"there is no agent {to.agent!r} in tenant {context.tenant!r}")
                case AmbiguousAgent(ids=several):
                    raise RefusedError(f"{len(several)} agents have this name; use the id", where=to.agent)
                case Agent():
                    return Selection((found,), (), ())


def show(found: Preview, form: Form) -> None:
    """The whole list on stdout, and what there is to say of it on stderr."""
    if form is Form.JSON:
        raise ValueError("a document is printed by who asked for it")
    AGENTS.show(found.selection.agents, form)
    tell(found)


def tell(found: Preview) -> None:
    """In a few lines: how many, how long, what it costs, and what a person should look at twice."""
    cost = found.estimate
    by = f"by the last {cost.turns} turns" if cost.turns else "by the limits and the text alone: no turn to go by"
    number = f"{found.number:,} {'agent' if found.number == 1 else 'agents'}"
    takes = f"about {span(cost.seconds)} and " if cost.seconds else "about "
    err.print(f"{number}, {takes}{cost.tokens:,} tokens ({by})", style="dim", soft_wrap=True)
    selection = found.selection
    if selection.canaries:
        names = _some([agent.name for agent in selection.canaries])
        said = f"left out: {_canaries(len(selection.canaries))} ({names}); --canaries takes them in"
        err.print(said, style="dim", markup=False, soft_wrap=True)
    if selection.copies:
        pairs = _some([f"{copy.name} of {original.name}" for copy, original in selection.copies])
        count = len(selection.copies)
        look = "looks like an imported copy" if count == 1 else "look like imported copies"
        said = f"{count} {look} and would get it, too: {pairs}"
        err.print(said, style="yellow", markup=False, soft_wrap=True)


def document(found: Preview) -> dict[str, Any]:
    """The preview for machines."""
    return {
        "dry_run": True,
        "to": found.to.model_dump(mode="json", exclude_none=True),
        "count": found.number,
        "seconds": round(found.estimate.seconds, 1),
        "tokens": found.estimate.tokens,
        "judged_by_turns": found.estimate.turns,
        "agents": [agent.model_dump(mode="json") for agent in found.selection.agents],
        "canaries_left_out": [agent.model_dump(mode="json") for agent in found.selection.canaries],
        "copies": [{"copy": copy.id, "original": original.id} for copy, original in found.selection.copies],
    }


def confirm(found: Preview, *, confirmed: bool) -> None:
    """Asks where there are many.

    Raises:
        RefusedError: nobody said yes; nothing was sent.
    """
    if confirmed or found.number <= ASK_PAST:
        return
    tell(found)
    if not sys.stdin.isatty():
        raise RefusedError(f"this goes to {found.number} agents: give --confirm to send it, or --dry-run to look")
    if not typer.confirm(f"send to {found.number} agents?", err=True):
        raise RefusedError("nothing was sent")


def _canaries(number: int) -> str:
    return "1 canary copy" if number == 1 else f"{number:,} canary copies"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
