"""The register of a tenant's teams. Everybody inside the tenant may read it, its owner and operators change it."""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from schemas.address import MAX_TAGS
from schemas.agent import Agent
from schemas.context import Context, Role
from schemas.ids import AgentId, TeamName, is_team_name
from schemas.team import MAX_MEMBERS, Member, Team
from workers.broker import keys
from workers.broker.client import Client
from workers.broker.scripts import Scripts
from workers.directory.agents import AmbiguousAgent, Directory, UnknownAgent
from workers.errors import NotFoundError, RefusedError

MAY_CHANGE = frozenset({Role.OWNER, Role.OPERATOR})
ATTEMPTS = 100
"""Each time a change finds that another was quicker; somebody's change goes through every time."""
ALIKE = 0.6
SHOWN_IDS = 5

Change = Callable[[Team], Team]


@dataclass(frozen=True, slots=True)
class Teams:
    """The teams of the tenant of each context."""

    client: Client

    async def all(self, context: Context) -> dict[TeamName, Team]:
        """Every registered team, sorted by name. A record that cannot be read is left out: it stops nobody's mail."""
        found: dict[bytes, bytes] = await self.client.hgetall(keys.of(context).teams)
        read = (_team(name.decode(errors="replace"), raw) for name, raw in sorted(found.items()))
        return {team.name: team for team in read if team is not None}

    async def show(self, context: Context, name: str) -> Team:
        """One registered team.

        Raises:
            NotFoundError: it is not registered.
            RefusedError: its record cannot be read.
        """
        return await self._read(context, name, await self._raw(context, name))

    async def create(
        self, context: Context, name: str, *, members: Iterable[Member] = (), tags: Iterable[str] = (), now_ms: int
    ) -> Team:
        """Registers a team that lists its members, or one that has the agents with all of the tags.

        Raises:
            RefusedError: the name is odd or taken, there are members and tags or too many, or the caller may not.
            NotFoundError: the tenant is not registered.
        """
        _may_change(context, name)
        if not is_team_name(name):
            raise RefusedError("expected letters, digits, dots, dashes, underscores, 1 to 64", where=_where(name))
        team = _checked(Team.model_construct(name=name, members=tuple(members), tags=tuple(tags), created_at_ms=now_ms))
        if not await self._write(context, name, b"", _record(team)):
            raise RefusedError("is registered already; `postroom team add` adds to it", where=_where(name))
        return team

    async def add(self, context: Context, name: str, member: Member) -> Team:
        """Adds a member at the end; one who is in the team gets the role given, or none.

        Raises:
            NotFoundError: the team is not registered.
            RefusedError: the team is full, or finds its members by tags, or the caller may not.
        """

        def added(team: Team) -> Team:
            if member.agent in team.listed:
                members = tuple(member if one.agent == member.agent else one for one in team.members)
            else:
                members = (*team.members, member)
            return team.model_copy(update={"members": members})

        return await self._change(context, name, added)

    async def remove(self, context: Context, name: str, agent: AgentId) -> Team:
        """Takes a member out. What is under way to it stays under way.

        Raises:
            NotFoundError: the team is not registered, or the agent is not in it.
            RefusedError: the team finds its members by tags, or the caller may not.
        """

        def removed(team: Team) -> Team:
            if agent not in team.listed:
                raise NotFoundError(f"{agent} is not in team {name!r}")
            return team.model_copy(update={"members": tuple(one for one in team.members if one.agent != agent)})

        return await self._change(context, name, removed)

    async def delete(self, context: Context, name: str) -> None:
        """Takes the team off the register, whatever its record. What is under way to its members stays under way.

        Raises:
            NotFoundError: it is not registered.
            RefusedError: the caller may not.
        """
        _may_change(context, name)
        for _ in range(ATTEMPTS):
            raw = await self._raw(context, name)
            if raw is None:
                raise await self._unknown(context, name)
            if await self._write(context, name, raw, b""):
                return
        raise _busy(name)

    async def _change(self, context: Context, name: str, change: Change) -> Team:
        _may_change(context, name)
        for _ in range(ATTEMPTS):
            raw = await self._raw(context, name)
            team = await self._read(context, name, raw)
            if team.is_by_tags:
                raise RefusedError("finds its members by tags: change the tags of the agent", where=_where(name))
            changed = _checked(change(team))
            if await self._write(context, name, raw or b"", _record(changed)):
                return changed
        raise _busy(name)

    async def _raw(self, context: Context, name: str) -> bytes | None:
        if not is_team_name(name):
            return None
        found: bytes | None = await self.client.hget(keys.of(context).teams, name)
        return found

    async def _read(self, context: Context, name: str, raw: bytes | None) -> Team:
        if raw is None:
            raise await self._unknown(context, name)
        team = _team(name, raw)
        if team is None:
            raise RefusedError("its record cannot be read: delete the team and create it again", where=_where(name))
        return team

    async def _unknown(self, context: Context, name: str) -> NotFoundError:
        near = difflib.get_close_matches(name, await self.all(context), n=1, cutoff=ALIKE)
        meant = f": did you mean {near[0]!r}?" if near else ""
        return NotFoundError(f"there is no team {name!r} in tenant {context.tenant!r}{meant}")

    async def _write(self, context: Context, name: str, before: bytes, after: bytes) -> bool:
        status = await Scripts(self.client).write_team(context, name=name, before=before, after=after)
        if status == "absent":
            raise NotFoundError(f"there is no tenant {context.tenant!r}")
        return status == "written"


async def member(
    context: Context, directory: Directory, address: str, *, role: str | None = None, seen_at: float
) -> Member:
    """The agent of that id or exact name, as a member. `seen_at` as for `Directory.find`.

    Raises:
        NotFoundError: the tenant has no such agent.
        RefusedError: several agents have this name, or the role is odd.
        LettaUnavailableError: it is not known, and the server cannot be asked now.
    """
    found = await directory.find(context, address, seen_at=seen_at)
    match found:
        case UnknownAgent():
            names = (await directory.roster(context)).by_name
            near = difflib.get_close_matches(address, names, n=1, cutoff=ALIKE)
            meant = f": did you mean {near[0]!r}?" if near else ""
            raise NotFoundError(f"there is no agent {address!r} in tenant {context.tenant!r}{meant}")
        case AmbiguousAgent(ids):
            some = ", ".join(ids[:SHOWN_IDS])
            raise RefusedError(f"{len(ids)} agents have this name; use an id: {some}", where=address)
        case Agent():
            try:
                return Member(agent=found.id, name=found.name, role=role)
            except ValidationError as error:
                raise RefusedError(error.errors()[0]["msg"], where=f"role {role!r}") from None


def _checked(team: Team) -> Team:
    """The team as it may stand in the register."""
    where = _where(team.name)
    tags = tuple(dict.fromkeys(team.tags))
    if team.members and tags:
        raise RefusedError("either lists its members or finds them by tags", where=where)
    if len(team.members) > MAX_MEMBERS:
        raise RefusedError(f"at most {MAX_MEMBERS} members; select more by tags (`postroom send --tags`)", where=where)
    if len({one.agent for one in team.members}) < len(team.members):
        raise RefusedError("names an agent twice", where=where)
    if len(tags) > MAX_TAGS:
        raise RefusedError(f"at most {MAX_TAGS} tags", where=where)
    try:
        return Team(name=team.name, members=team.members, tags=tags, created_at_ms=team.created_at_ms)
    except ValidationError as error:
        first = error.errors()[0]
        raise RefusedError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", where=where) from None


def _team(name: str, raw: bytes) -> Team | None:
    try:
        team = Team.model_validate_json(raw)
    except ValidationError:
        return None
    return team if team.name == name else None


def _record(team: Team) -> bytes:
    return team.model_dump_json(exclude_defaults=True).encode()


def _may_change(context: Context, name: str) -> None:
    if not context.roles & MAY_CHANGE:
        raise RefusedError("only the tenant's owner or an operator changes teams", where=_where(name))


def _busy(name: str) -> RefusedError:
    return RefusedError("others change it all the time: try again", where=_where(name))


def _where(name: str) -> str:
    return f"team {name!r}"
