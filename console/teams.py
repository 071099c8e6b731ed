"""What a person is shown of teams: one a line, or one with its members. Shared by `team` and `get teams`."""

from collections.abc import Mapping
from dataclasses import dataclass

from rich.text import Text

from console.output import Column, Listing, out, pairs, plain_table, safe
from console.session import Session, session
from console.times import local_iso, relative
from schemas.agent import Agent
from schemas.context import Context
from schemas.ids import AgentId, is_team_name
from schemas.team import TEAM_TAG, Team
from workers.bus import listing
from workers.directory.agents import Directory, Roster
from workers.directory.selection import members, roles_of
from workers.directory.teams import Teams
from workers.errors import ConfigurationError, LettaUnavailableError, NotFoundError

CURRENT_SECONDS = 5.0
"""A list of agents older than this is read again before somebody is called gone."""


@dataclass(frozen=True, slots=True)
class TeamRow:
    """A team of a listing."""

    name: str
    team: Team | None
    """None: nobody registered it, agents carry its tag."""
    ids: tuple[AgentId, ...]

    @property
    def size(self) -> int:
        """How many agents are in it."""
        return len(self.ids)

    @property
    def kind(self) -> str:
        """How it finds its members."""
        if self.team is None:
            return "tag"
        return "tags" if self.team.is_by_tags else "list"

    @property
    def tags(self) -> tuple[str, ...]:
        """Those that make an agent its member."""
        return (TEAM_TAG + self.name,) if self.team is None else self.team.tags


@dataclass(frozen=True, slots=True)
class MemberRow:
    """One member of a team."""

    agent: AgentId
    name: str
    roles: tuple[str, ...]
    on_server: bool | None
    """Whether the Letta server has the agent, as this tenant's; None where it could not be asked."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A team with all that a person wants to know of it."""

    row: TeamRow
    members: tuple[MemberRow, ...]
    turns: int
    turns_a_minute: int
    now_ms: int


def row_document(row: TeamRow) -> dict[str, object]:
    """A team of a listing as JSON."""
    return {
        "name": row.name,
        "registered": row.team is not None,
        "by": row.kind,
        "tags": list(row.tags),
        "size": row.size,
        "created_at_ms": row.team.created_at_ms if row.team else None,
    }


TEAMS: Listing[TeamRow] = Listing(
    columns=(
        Column("name", lambda row: row.name),
        Column("members", lambda row: str(row.size), right=True),
        Column("by", lambda row: row.kind),
        Column("tags", lambda row: " ".join(row.tags)),
        Column("created", lambda row: local_iso(row.team.created_at_ms) if row.team else "", wide=True),
    ),
    name=lambda row: row.name,
    document=row_document,
    nothing="no teams: `postroom team create NAME` registers one, or tag agents with team:NAME on the Letta server",
)


async def team_rows(tenant: str | None) -> list[TeamRow]:
    """Every team of a tenant: the registered ones, and those that agents, as they are remembered, carry the tag of."""
    async with session() as opened:
        context = await opened.tenant(tenant)
        registered = await Teams(opened.client).all(context)
        agents = {agent.id: agent for agent in await listing.known_agents(context, opened.client)}
        tagged = {tag.removeprefix(TEAM_TAG) for one in agents.values() for tag in one.tags if tag.startswith(TEAM_TAG)}
        names = sorted({*registered, *filter(is_team_name, tagged)})
        return [_row(opened, name, registered.get(name), agents) for name in names]


async def show_team(tenant: str | None, name: str) -> Shown:
    """All of one team.

    Raises:
        NotFoundError: it is not registered, and no agent carries its tag.
    """
    async with session() as opened:
        context = await opened.tenant(tenant)
        teams = Teams(opened.client)
        team = (await teams.all(context)).get(name)
        agents, is_current = await _agents(opened, context)
        row = _row(opened, name, team, agents)
        if team is None and not (is_team_name(name) and row.size):
            # A record that cannot be read says so; a name like it is named.
            await teams.show(context, name)
            raise NotFoundError(f"there is no team {name!r} in tenant {context.tenant!r}")
        now_ms = await opened.now_ms()
        turns = await listing.turns_in_window(context, opened.client, f"team:{name}", now_ms)
        limits = (await opened.tenants.show(opened.operator, context.tenant)).limits
        return Shown(row, _members(row, agents, is_current=is_current), turns, limits.team_per_minute, now_ms)


def document(shown: Shown) -> dict[str, object]:
    """A team as JSON."""
    return {
        **row_document(shown.row),
        "members": [
            {"agent": one.agent, "name": one.name, "roles": list(one.roles), "on_server": one.on_server}
            for one in shown.members
        ],
        "turns_in_window": shown.turns,
        "turns_a_minute": shown.turns_a_minute,
    }


def describe(shown: Shown) -> None:
    """A team for people."""
    console, row = out(), shown.row
    by = {
        "list": "listed one by one",
        "tags": "agents with all of its tags",
        "tag": "agents with its tag; not registered",
    }
    rows: list[tuple[str, str | Text]] = [
        ("team", Text(safe(row.name), "bold")),
        ("members", f"{row.size}: {by[row.kind]}"),
    ]
    if row.tags:
        rows.append(("tags", " ".join(row.tags)))
    rows.append(("rate", f"{shown.turns} of {shown.turns_a_minute} turns a minute are used"))
    if row.team is not None:
        at_ms = row.team.created_at_ms
        rows.append(("created", f"{local_iso(at_ms)}  ({relative(at_ms, shown.now_ms)})"))
    console.print(pairs(rows))
    if not shown.members:
        return
    table = plain_table("member", "role", "on the server", "id")
    words = {
        True: Text("yes"),
        False: Text("no: what is sent to it is refused", "red"),
        None: Text("cannot ask", "yellow"),
    }
    for one in shown.members:
        table.add_row(Text(safe(one.name)), Text(safe(", ".join(one.roles))), words[one.on_server], one.agent)
    console.print()
    console.print(table)


async def _agents(opened: Session, context: Context) -> tuple[Mapping[AgentId, Agent], bool]:
    """The tenant's agents, and whether the server has been asked for them lately."""
    try:
        async with opened.directory() as directory:
            return await _recent(opened, context, directory)
    except (LettaUnavailableError, ConfigurationError):
        return {agent.id: agent for agent in await listing.known_agents(context, opened.client)}, False


async def _recent(opened: Session, context: Context, directory: Directory) -> tuple[Mapping[AgentId, Agent], bool]:
    asked_at = opened.resources.clock.monotonic()
    roster: Roster = await directory.recent(context, CURRENT_SECONDS)
    return roster.by_id, asked_at - roster.read_at <= CURRENT_SECONDS


def _row(opened: Session, name: str, team: Team | None, agents: Mapping[AgentId, Agent]) -> TeamRow:
    return TeamRow(name, team, members(team, name, agents, None, canary_prefix=opened.settings.canary_prefix))


def _members(row: TeamRow, agents: Mapping[AgentId, Agent], *, is_current: bool) -> tuple[MemberRow, ...]:
    listed = {one.agent: one for one in row.team.members} if row.team else {}
    rows = []
    for id_ in row.ids:
        agent, one = agents.get(id_), listed.get(id_)
        name = agent.name if agent else one.name if one else id_
        roles = roles_of(agent, listed=one.role if one else None)
        rows.append(MemberRow(id_, name, roles, agent is not None if is_current else None))
    return tuple(rows)
