"""`postroom team`: named agents of a tenant, to whom one message goes at once."""
# ruff: noqa: FBT002  # typer gives options by name

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from console.commands.options import FormOption, JsonOption, TenantOption, form_of
from console.output import Form, print_json, safe
from console.session import Session, run, session
from console.teams import TEAMS, describe, document, show_team, team_rows
from schemas.context import Context
from schemas.ids import AgentId
from schemas.team import MAX_MEMBERS, Member, Team
from workers.bus import listing
from workers.directory.agents import Directory
from workers.directory.selection import members as members_of
from workers.directory.teams import Teams, member
from workers.errors import NotFoundError, RefusedError

app = typer.Typer(no_args_is_help=True, help=f"Teams of a tenant: up to {MAX_MEMBERS} agents, with roles.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The team.", show_default=False)]
AgentArgument = Annotated[str, typer.Argument(metavar="AGENT", help="By name or id.", show_default=False)]


def register(parent: typer.Typer) -> None:
    """Adds the commands."""
    parent.add_typer(app, name="team", rich_help_panel="Operate")


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, dots, dashes, underscores.")],
    member_options: Annotated[
        list[str] | None,
        typer.Option("--member", "-m", metavar="AGENT[:ROLE]", help="An agent by name or id. Repeatable."),
    ] = None,
    tags: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="Members are the agents with all. Repeatable.")
    ] = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register a team that lists its members, or one whose members are found by their tags whenever it is sent to.

    A name that is not registered means the agents with the tag team:NAME on the Letta server.

    [bold]Examples[/bold]

      postroom team create editorial -t acme --member acme-editor:editor --member acme-writer

      postroom team create press -t acme --tag role:support --tag env:prod
    """
    if member_options and tags:
        raise typer.BadParameter("give members or tags: a team lists its members or finds them")

    async def work() -> Team:
        async with session(letta=bool(member_options or tags)) as opened:
            context, teams = await opened.tenant(tenant), Teams(opened.client)
            listed: Sequence[Member] = ()
            if member_options or tags:
                async with opened.directory() as directory:
                    listed = await _members(opened, context, directory, member_options or ())
                    await _refuse_many(context, directory, name, tags or ())
            return await teams.create(context, name, members=listed, tags=tags or (), now_ms=await opened.now_ms())

    team = run(work())
    how = f"finds its members by {', '.join(team.tags)}" if team.is_by_tags else _size(team)
    _tell(team, f"team {team.name} is registered: {how}", as_json=as_json)


@app.command("add")
def add(
    name: Name,
    agent: AgentArgument,
    role: Annotated[str | None, typer.Option("--role", "-r", help="In the team; else its agent's role: tags.")] = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add an agent to a team that lists its members. One who is in it already gets the role given, or none.

    [bold]Example[/bold]

      postroom team add editorial acme-researcher --role researcher -t acme
    """

    async def work() -> tuple[Team, Member]:
        async with session(letta=True) as opened, opened.directory() as directory:
            context, teams = await opened.tenant(tenant), Teams(opened.client)
            await teams.show(context, name)
            now = opened.resources.clock.monotonic()
            new = await member(context, directory, agent, role=role, seen_at=now)
            return await teams.add(context, name, new), new

    team, new = run(work())
    _tell(team, f"{new.name} is in team {name}{f' as {new.role}' if new.role else ''}: {_size(team)}", as_json=as_json)


@app.command("remove")
def remove(name: Name, agent: AgentArgument, tenant: TenantOption = None, as_json: JsonOption = False) -> None:
    """Take an agent out of a team that lists its members, also one that the server no longer has.

    What was sent to the team before still comes to it.

    [bold]Example[/bold]

      postroom team remove editorial acme-researcher -t acme
    """

    async def work() -> Team:
        async with session() as opened:
            context, teams = await opened.tenant(tenant), Teams(opened.client)
            id_ = await _listed(opened, context, await teams.show(context, name), agent)
            return await teams.remove(context, name, id_)

    team = run(work())
    _tell(team, f"{agent} is not in team {name} any more: {_size(team)}", as_json=as_json)


@app.command("list")
def list_(tenant: TenantOption = None, form: FormOption = Form.TABLE, as_json: JsonOption = False) -> None:
    """Every team of the tenant, also those that only agents' tags make; the same as `postroom get teams`.

    [bold]Example[/bold]

      postroom team list -t acme -o wide
    """
    TEAMS.show(run(team_rows(tenant)), form_of(form, as_json=as_json))


@app.command("show")
def show(name: Name, tenant: TenantOption = None, as_json: JsonOption = False) -> None:
    """A team's members with their roles, whether the server still has each, and how much of its rate is used.

    [bold]Example[/bold]

      postroom team show editorial -t acme
    """
    shown = run(show_team(tenant, name))
    if as_json:
        print_json(document(shown))
    else:
        describe(shown)


@app.command("delete")
def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a team off the register. Its agents stay, and what was sent to the team before still comes to them.

    [bold]Example[/bold]

      postroom team delete editorial -t acme --yes
    """

    async def work() -> None:
        async with session() as opened:
            context = await opened.tenant(tenant)
            if not yes:
                await Teams(opened.client).show(context, name)
                _confirm(name)
            await Teams(opened.client).delete(context, name)

    run(work())
    if as_json:
        print_json({"deleted": name})
    else:
        print(f"team {safe(name)} is deleted")


def _confirm(name: str) -> None:
    if not sys.stdin.isatty():
        raise RefusedError("give --yes to delete it", where=f"team {name!r}")
    if not typer.confirm(f"delete team {name}?", err=True):
        raise RefusedError("was left as it is", where=f"team {name!r}")


async def _members(opened: Session, context: Context, directory: Directory, given: Sequence[str]) -> tuple[Member, ...]:
    seen_at = opened.resources.clock.monotonic()
    return tuple([await _member(context, directory, one, seen_at) for one in given])


async def _member(context: Context, directory: Directory, given: str, seen_at: float) -> Member:
    """AGENT or AGENT:ROLE; an agent's own name may have colons."""
    try:
        return await member(context, directory, given, seen_at=seen_at)
    except NotFoundError:
        agent, colon, role = given.rpartition(":")
        if not colon:
            raise
    return await member(context, directory, agent, role=role, seen_at=seen_at)


async def _refuse_many(context: Context, directory: Directory, name: str, tags: Sequence[str]) -> None:
    if not tags:
        return
    team = Team.model_construct(name=name, members=(), tags=tuple(tags))
    agents = {agent.id: agent for agent in await directory.all(context)}
    found = members_of(team, name, agents, None)
    if len(found) > MAX_MEMBERS:
        said = f"{len(found)} agents have these tags, a team has at most {MAX_MEMBERS}: use `postroom send --tags`"
        raise RefusedError(said, where=f"team {name!r}")


async def _listed(opened: Session, context: Context, team: Team, agent: str) -> AgentId:
    """The member of that id, or of that name now or when it was added.

    Raises:
        NotFoundError: nobody in the team is called so.
        RefusedError: several are.
    """
    names = {one.id: one.name for one in await listing.known_agents(context, opened.client)}
    found = [one.agent for one in team.members if agent in {one.agent, one.name, names.get(one.agent)}]
    exact = [id_ for id_ in found if id_ == agent] or found
    if len(exact) > 1:
        raise RefusedError(f"{len(exact)} members have this name; use an id: {', '.join(exact)}", where=agent)
    if not exact and not team.is_by_tags:
        known = ", ".join(one.name for one in team.members) or "nobody"
        raise NotFoundError(f"{agent!r} is not in team {team.name!r}, which has {known}")
    return exact[0] if exact else agent


def _tell(team: Team, sentence: str, *, as_json: bool) -> None:
    if as_json:
        print_json(team.model_dump(mode="json"))
    else:
        print(safe(sentence))


def _size(team: Team) -> str:
    return "1 member" if len(team.members) == 1 else f"{len(team.members)} members"
