"""`postroom agent`: one agent with its mailbox; parked, looked at, let go on."""
# ruff: noqa: FBT002  # typer gives options by name

from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.text import Text

from console.commands.options import JsonOption, TenantOption
from console.output import out, pairs, print_json, safe, state_text
from console.session import Session, run, session
from console.times import local_iso, relative
from console.words import in_words
from schemas.agent import Agent
from schemas.context import Context
from schemas.delivery import State
from schemas.ids import AgentId, is_agent_id
from workers.broker import agenda
from workers.bus import listing, parking
from workers.bus.listing import Hold
from workers.bus.parking import End, Parked, Running, Waiting
from workers.directory.agents import AmbiguousAgent, Found, Roster
from workers.directory.selection import teams_of
from workers.directory.teams import Teams
from workers.errors import ConfigurationError, LettaUnavailableError, NotFoundError, RefusedError

SHOWN_WAITING, SHOWN_ENDS = 20, 5
WHY = "parked by hand"

app = typer.Typer(no_args_is_help=True, help="Look at one agent; park it with its mailbox, or let it go on.")

AgentArgument = Annotated[str, typer.Argument(metavar="AGENT", help="By name or id.", show_default=False)]


def register(parent: typer.Typer) -> None:
    """Adds the commands."""
    parent.add_typer(app, name="agent", rich_help_panel="Operate")


@dataclass(frozen=True, slots=True)
class Shown:
    """An agent, and all that goes on around it."""

    id: AgentId
    agent: Agent | None
    """None: nobody remembers more than its id."""
    teams: tuple[str, ...]
    parked: Parked | None
    hold: Hold | None
    failures: int
    running: Running | None
    size: int
    waiting: list[Waiting]
    ends: list[End]
    now_ms: int


@app.command("park")
def park(
    agent: AgentArgument,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="For whoever looks at it later.")] = WHY,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Park an agent with its mailbox: a running turn comes to its end, no further one begins. What waits stays, and
    expires in its time; other agents go on.

    [bold]Example[/bold]

      postroom agent park writer -t acme --why "it answers in French since noon"
    """

    async def work() -> tuple[AgentId, str, Parked | None]:
        async with session() as opened:
            context = await opened.tenant(tenant)
            id_ = await _resolve(opened, context, agent)
            status = await opened.resources.scripts.park(context, agent=id_, by=context.principal, why=why)
            if status == "gone":
                raise NotFoundError(f"there is no tenant {context.tenant!r}")
            return id_, status, await parking.parked_one(context, opened.client, id_)

    id_, status, record = run(work())
    if as_json:
        print_json({"agent": id_, "result": status, "parked": _parked_document(record)})
    elif status == "already" and record is not None:
        print(safe(f"{agent} is parked already, by {record.by}: {record.why}"))
    else:
        print(safe(f"{agent} is parked; `postroom agent unpark {agent}` lets it go on"))


@app.command("unpark")
def unpark(
    agents: Annotated[
        list[str] | None, typer.Argument(metavar="AGENT...", help="By name or id.", show_default=False)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every parked agent of the tenant.")] = False,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let parked agents go on with what waits for them. Their dead letters in a row are counted from 0 again.

    [bold]Examples[/bold]

      postroom agent unpark writer -t acme

      postroom agent unpark --all -t acme
    """
    if bool(agents) == every:
        raise typer.BadParameter("give agents, or --all")

    async def work() -> list[tuple[AgentId, str]]:
        async with session() as opened:
            context = await opened.tenant(tenant)
            ids = [await _resolve(opened, context, one) for one in agents or ()]
            if every:
                ids = sorted(await parking.parked(context, opened.client))
            results = []
            for id_ in ids:
                status, look_ms = await opened.resources.scripts.unpark(context, agent=id_)
                await agenda.note(context, opened.client, look_ms)
                results.append((id_, status))
            return results

    results = run(work())
    if as_json:
        print_json([{"agent": id_, "result": status} for id_, status in results])
        return
    for name, (_, status) in zip(agents or [id_ for id_, _ in results], results, strict=True):
        print(safe(f"{name} goes on" if status == "unparked" else f"{name} was not parked"))
    if not results:
        print("no agent is parked")


@app.command("show")
def show(agent: AgentArgument, tenant: TenantOption = None, as_json: JsonOption = False) -> None:
    """An agent: who it is, whether and why it is parked or held, what runs, what waits and why, how the last ended.

    [bold]Example[/bold]

      postroom agent show writer -t acme
    """

    async def work() -> Shown:
        async with session() as opened:
            context = await opened.tenant(tenant)
            return await _look(opened, context, await _resolve(opened, context, agent))

    shown = run(work())
    if as_json:
        print_json(_document(shown))
    else:
        _show(shown)


async def _resolve(opened: Session, context: Context, address: str) -> AgentId:
    """The agent by name or id: asked of Letta, or of what is remembered where it is away.

    Raises:
        NotFoundError: the tenant has no such agent.
        RefusedError: several agents have this name.
    """
    match await _find(opened, context, address):
        case Agent(id=id_):
            return id_
        case AmbiguousAgent(ids):
            raise RefusedError(f"{len(ids)} agents have this name; use an id: {', '.join(ids)}", where=address)
        case _:
            # One that is gone from Letta may still be parked, with a mailbox.
            if is_agent_id(address) and await parking.parked_one(context, opened.client, address):
                return address
            raise NotFoundError(f"there is no agent {address!r} in tenant {context.tenant!r} (`postroom get agents`)")


async def _find(opened: Session, context: Context, address: str) -> Found:
    remembered = Roster.of(await listing.known_agents(context, opened.client), 0).find(address)
    if isinstance(remembered, Agent):
        return remembered
    try:
        async with opened.directory() as directory:
            return await directory.find(context, address, seen_at=opened.resources.clock.monotonic())
    except (LettaUnavailableError, ConfigurationError):
        return remembered


async def _look(opened: Session, context: Context, id_: AgentId) -> Shown:
    client = opened.client
    now_ms = await opened.now_ms()
    agent = next((one for one in await listing.known_agents(context, client) if one.id == id_), None)
    return Shown(
        id=id_,
        agent=agent,
        teams=teams_of(agent, await Teams(client).all(context)) if agent else (),
        parked=await parking.parked_one(context, client, id_),
        hold=(await listing.holds(context, client, now_ms)).get(id_),
        failures=await parking.failures(context, client, id_),
        running=await parking.running(context, client, id_),
        size=(await listing.mailbox_sizes(context, client, [id_]))[id_],
        waiting=await parking.waiting(context, client, id_, limit=SHOWN_WAITING),
        ends=await parking.last_ends(context, client, id_, limit=SHOWN_ENDS),
        now_ms=now_ms,
    )


def _parked_document(record: Parked | None) -> dict[str, Any] | None:
    return {"at_ms": record.at_ms, "by": record.by, "why": record.why} if record else None


def _document(shown: Shown) -> dict[str, Any]:
    held = shown.hold if shown.parked is None else None
    turn = shown.running
    return {
        "id": shown.id,
        "name": shown.agent.name if shown.agent else None,
        "tags": list(shown.agent.tags) if shown.agent else [],
        "teams": list(shown.teams),
        "parked": _parked_document(shown.parked),
        "held": {"until_ms": held.until_ms, "cause": held.cause} if held else None,
        "failures_in_a_row": shown.failures,
        "running": {"delivery": turn.delivery, "run_id": turn.run_id, "process": turn.owner} if turn else None,
        "waiting": shown.size,
        "first_waiting": [
            {
                "delivery": one.id,
                "cause": one.kept.cause,
                "until_ms": one.kept.until_ms,
                "attempts": one.attempts,
                "detail": one.detail,
            }
            for one in shown.waiting
        ],
        "last_ends": [
            {"delivery": one.delivery, "at_ms": one.at_ms, "state": one.state, "cause": one.cause} for one in shown.ends
        ],
    }


def _show(shown: Shown) -> None:
    now_ms = shown.now_ms
    rows: list[tuple[str, str | Text]] = [
        ("agent", Text(safe(shown.agent.name if shown.agent else "not known to Letta now"), "bold")),
        ("id", shown.id),
        ("tags", " ".join(shown.agent.tags) if shown.agent else ""),
        ("teams", ", ".join(shown.teams) or "none"),
    ]
    if shown.parked is not None:
        since = f"{local_iso(shown.parked.at_ms)} ({relative(shown.parked.at_ms, now_ms)})"
        rows.append(("parked", Text(safe(f"by {shown.parked.by}, {since}: {shown.parked.why}"), "yellow")))
    elif shown.hold is not None:
        rows.append(("held", f"{shown.hold.cause}, {relative(shown.hold.until_ms, now_ms)}"))
    rows.append(("dead in a row", str(shown.failures)))
    turn = shown.running
    rows.append(("running", f"{turn.delivery} {turn.run_id or '(no run named yet)'}" if turn else "nothing"))
    rows.append(("waiting", str(shown.size)))
    rows += [("", f"{one.id}  {_why(one, now_ms)}") for one in shown.waiting]
    if shown.size > len(shown.waiting):
        rows.append(("", f"… {shown.size - len(shown.waiting)} more: `postroom get deliveries --agent {shown.id}`"))
    for number, end in enumerate(shown.ends):
        said = Text(safe(f"{end.delivery}  {relative(end.at_ms, now_ms)}  "))
        rows.append(("" if number else "last ends", said.append_text(state_text(end.state))))
    out().print(pairs(rows))


def _why(one: Waiting, now_ms: int) -> str:
    why = in_words(State.WAITING, one.kept.cause)
    return f"{why}; {relative(one.kept.until_ms, now_ms)}" if one.kept.until_ms else why
