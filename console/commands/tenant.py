"""`postroom tenant`: registers tenants and sets what they may use."""
# ruff: noqa: FBT002, PLR0917  # typer gives options by name

import asyncio
import json
import shlex
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.text import Text

from console.addresses import has_password, redis_cli
from console.commands import leaving
from console.commands.get import TENANTS, tenant_rows
from console.commands.options import FormOption, JsonOption, TenantOption, form_of, size
from console.output import Form, out, pairs, print_json, safe
from console.session import Session, run, session
from console.times import clock_time, local_iso, relative, size_text
from schemas.agent import tenant_tag
from schemas.context import Context
from schemas.delivery import Cause, State
from schemas.tenant import Limits, Tenant
from workers.broker import keys
from workers.bus import listing
from workers.bus.keeping import WHOLE_TENANT
from workers.bus.listing import Hold
from workers.errors import ConfigurationError, LettaUnavailableError

ASK_LETTA_SECONDS = 2.0

app = typer.Typer(no_args_is_help=True, help="Register tenants, set limits, suspend, resume, delete.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits, dashes.", show_default=False)]
PerMinute = Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Turns of all its agents a minute.")]
TeamPerMinute = Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Turns of one team a minute.")]
AgentPerMinute = Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Turns of one agent a minute.")]
InFlight = Annotated[int | None, typer.Option(min=1, max=100_000, help="Turns at the same time.")]
MaxBytes = Annotated[
    int | None,
    typer.Option(parser=size, metavar="SIZE", help="Content accepted and not yet ended: 64MiB, 1GiB."),
]


def register(parent: typer.Typer) -> None:
    """Adds the commands."""
    leaving.register(app)
    parent.add_typer(app, name="tenant", rich_help_panel="Operate")


@dataclass(frozen=True, slots=True)
class Shown:
    """A tenant with all that a person wants to know of it."""

    tenant: Tenant
    counters: dict[str, int]
    hold: Hold | None
    dead_letters: int
    stream: str
    example: str
    asks_password: bool
    now_ms: int


@app.command("create")
def create(
    name: Name,
    per_minute: PerMinute = None,
    team_per_minute: TeamPerMinute = None,
    agent_per_minute: AgentPerMinute = None,
    in_flight: InFlight = None,
    max_bytes: MaxBytes = None,
    as_json: JsonOption = False,
) -> None:
    """Register a tenant. The stream of an unregistered one is never read.

    [bold]Examples[/bold]

      postroom tenant create acme

      postroom tenant create globex --per-minute 300 --in-flight 8
    """
    chosen = _chosen(per_minute, team_per_minute, agent_per_minute, in_flight, max_bytes)

    async def work() -> Shown:
        async with session() as opened:
            limits = Limits().model_copy(update=chosen)
            await opened.tenants.create(opened.operator, name, limits, now_ms=await opened.now_ms())
            return await _shown(opened, name)

    _tell(run(work()), as_json=as_json)


@app.command("list")
def list_(form: FormOption = Form.TABLE, as_json: JsonOption = False) -> None:
    """Every registered tenant; the same as `postroom get tenants`.

    [bold]Example[/bold]

      postroom tenant list -o wide
    """
    TENANTS.show(run(tenant_rows()), form_of(form, as_json=as_json))


@app.command("show")
def show(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Left out: POSTROOM_TENANT.")] = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """A tenant's limits, its counts, and how to publish to it from any language.

    [bold]Example[/bold]

      postroom tenant show acme
    """
    _tell(run(show_one(name or tenant)), as_json=as_json)


async def show_one(name: str | None) -> Shown:
    """All of one tenant.

    Raises:
        NotFoundError: it is not registered.
    """
    async with session() as opened:
        return await _shown(opened, (await opened.tenant(name)).tenant)


@app.command("limit")
def limit(
    name: Name,
    per_minute: PerMinute = None,
    team_per_minute: TeamPerMinute = None,
    agent_per_minute: AgentPerMinute = None,
    in_flight: InFlight = None,
    max_bytes: MaxBytes = None,
    as_json: JsonOption = False,
) -> None:
    """Change limits; those not named stay. They hold from the next turn on, across all processes.

    [bold]Example[/bold]

      postroom tenant limit acme --per-minute 300 --agent-per-minute 30
    """
    chosen = _chosen(per_minute, team_per_minute, agent_per_minute, in_flight, max_bytes)
    if not chosen:
        raise typer.BadParameter("nothing to change: give at least one limit, such as --per-minute 300")

    async def work() -> Shown:
        async with session() as opened:
            known = await opened.tenants.show(opened.operator, name)
            await opened.tenants.change_limits(opened.operator, name, known.limits.model_copy(update=chosen))
            return await _shown(opened, name)

    _tell(run(work()), as_json=as_json)


@app.command("suspend")
def suspend(name: Name, as_json: JsonOption = False) -> None:
    """Stop all delivery of a tenant. Nothing is lost; what expires meanwhile expires.

    [bold]Example[/bold]

      postroom tenant suspend acme
    """
    _set_suspended(name, suspended=True, as_json=as_json)


@app.command("resume")
def resume(name: Name, as_json: JsonOption = False) -> None:
    """Deliver again.

    [bold]Example[/bold]

      postroom tenant resume acme
    """
    _set_suspended(name, suspended=False, as_json=as_json)


def _set_suspended(name: str, *, suspended: bool, as_json: bool) -> None:
    async def work() -> Shown:
        async with session() as opened:
            await opened.tenants.suspend(opened.operator, name, suspended=suspended)
            return await _shown(opened, name)

    _tell(run(work()), as_json=as_json)


def _chosen(
    per_minute: int | None,
    team_per_minute: int | None,
    agent_per_minute: int | None,
    in_flight: int | None,
    max_bytes: int | None,
) -> dict[str, int]:
    given = {
        "per_minute": per_minute,
        "team_per_minute": team_per_minute,
        "agent_per_minute": agent_per_minute,
        "in_flight": in_flight,
        "max_bytes": max_bytes,
    }
    return {limit: value for limit, value in given.items() if value is not None}


async def _shown(opened: Session, name: str) -> Shown:
    tenant = await opened.tenants.show(opened.operator, name)
    context = opened.operator.for_tenant(tenant.id)
    now_ms = await opened.now_ms()
    held = await listing.holds(context, opened.client, now_ms)
    url = opened.settings.required_redis_url()
    stream = keys.of(context).tasks
    message = json.dumps(
        {"to": {"agent": await _some_agent(opened, context)}, "content": "Topic: tea"}, separators=(",", ":")
    )
    return Shown(
        tenant=tenant,
        counters=await listing.counters(context, opened.client),
        hold=held.get(WHOLE_TENANT),
        dead_letters=await opened.client.xlen(keys.of(context).dead),
        stream=stream,
        example=f"{redis_cli(url)} {shlex.join(['XADD', stream, '*', 'message', message])}",
        asks_password=has_password(url),
        now_ms=now_ms,
    )


async def _some_agent(opened: Session, context: Context) -> str:
    """An agent for the example: one that is remembered, else one that Letta names quickly."""
    known = await listing.known_agents(context, opened.client)
    if not known and opened.settings.letta_base_url is not None:
        try:
            async with asyncio.timeout(ASK_LETTA_SECONDS), opened.directory() as directory:
                known = await directory.all(context)
        except (LettaUnavailableError, ConfigurationError, TimeoutError):
            known = []
    return known[0].name if known else "AGENT"


def _tell(shown: Shown, *, as_json: bool) -> None:
    if as_json:
        print_json(document(shown))
    else:
        describe(shown)


def document(shown: Shown) -> dict[str, object]:
    """A tenant as JSON."""
    return {
        **shown.tenant.model_dump(mode="json"),
        "agents_need_tag": tenant_tag(shown.tenant.id),
        "counters": shown.counters,
        "held_until_ms": shown.hold.until_ms if shown.hold else None,
        "held_cause": shown.hold.cause if shown.hold else None,
        "dead_letters": shown.dead_letters,
        "stream": shown.stream,
        "example": shown.example,
    }


def describe(shown: Shown) -> None:
    """A tenant for people."""
    console, tenant, limits = out(), shown.tenant, shown.tenant.limits
    status = Text("suspended: nothing is delivered", "yellow") if tenant.suspended else Text("active", "green")
    created = f"{local_iso(tenant.created_at_ms)}  ({relative(tenant.created_at_ms, shown.now_ms)})"
    rows: list[tuple[str, str | Text]] = [("tenant", Text(safe(tenant.id), "bold")), ("status", status)]
    if shown.hold:
        why = Cause(shown.hold.cause) if shown.hold.cause in set(Cause) else shown.hold.cause
        rows.append(("held", f"until {clock_time(shown.hold.until_ms)}: {why}"))
    rows += [
        ("created", created),
        ("agents need", f"the tag {tenant_tag(tenant.id)} on the Letta server"),
        ("a minute", f"{limits.per_minute} turns, {limits.team_per_minute} a team, {limits.agent_per_minute} an agent"),
        ("at once", f"{limits.in_flight} turns"),
        ("not ended", f"{size_text(shown.counters.get('bytes', 0))} of {size_text(limits.max_bytes)}"),
    ]
    console.print(pairs([*rows, *_counts(shown)]))
    console.print(Text("\npublish from any language: XADD to the tenant's stream, field `message`", style="dim"))
    console.print(Text(f"  {shown.stream}"), soft_wrap=True)
    console.print(Text(f"\n  {shown.example}", style="bold"), soft_wrap=True)
    if shown.asks_password:
        console.print(Text("  (redis-cli asks for the password; it is not printed here)", style="dim"))


def _counts(shown: Shown) -> list[tuple[str, str | Text]]:
    def counted(*states: State) -> str:
        return ", ".join(f"{shown.counters.get(state, 0)} {state}" for state in states)

    return [
        ("under way", counted(State.ACCEPTED, State.WAITING, State.RUNNING)),
        ("ended", counted(State.DELIVERED, State.EXPIRED, State.REFUSED, State.DEAD, State.CANCELLED, State.UNKNOWN)),
        ("dead letters", str(shown.dead_letters)),
    ]
