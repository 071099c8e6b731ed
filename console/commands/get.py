"""`postroom get`: listings, with lettactl's habits."""
# ruff: noqa: FBT002, PLR0917  # typer gives options by name

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import typer
from rich.text import Text

from console.commands.messages import ReaderOption
from console.commands.options import FormOption, JsonOption, TenantOption, form_of, since
from console.output import Column, Form, Listing, state_text
from console.session import Session, principal, run, session
from console.teams import TEAMS, team_rows
from console.times import relative, size_text, span
from schemas.address import in_short
from schemas.agent import Agent
from schemas.context import Context
from schemas.delivery import Cause, State
from schemas.receipt import DeliveryReceipt
from schemas.tenant import Tenant
from workers.bus import listing, parking
from workers.bus.listing import Hold, Listed
from workers.bus.parking import Parked
from workers.bus.search import Wanted, read_thread, search

app = typer.Typer(no_args_is_help=True, help="List agents, teams, messages, deliveries or tenants.")

NAMED = 3
"""Of a message to more, so many names stand in a line."""
LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="At most this many, newest first.")]
StateOption = Annotated[State | None, typer.Option("--state", "-s", help="Only those in this state.")]
AgentOption = Annotated[str | None, typer.Option("--agent", "-a", help="Only those for this agent, by name or id.")]
TeamOption = Annotated[str | None, typer.Option("--team", help="Only those to this team, or counted under it.")]
ThreadOption = Annotated[
    str | None,
    typer.Option("--thread", metavar="ID", help="All of one chain, oldest first: by a message's or correlation id."),
]
UntilOption = Annotated[
    datetime | None,
    typer.Option("--until", parser=since, metavar="WHEN", help="Only those accepted until: 10m (ago) or ISO."),
]
SinceOption = Annotated[
    datetime | None,
    typer.Option("--since", parser=since, metavar="WHEN", help="Only those accepted since: 10m (ago) or ISO."),
]


def register(parent: typer.Typer) -> None:
    """Adds the commands."""
    parent.add_typer(app, name="get", rich_help_panel="Look")


@dataclass(frozen=True, slots=True)
class AgentRow:
    """An agent, and what goes on around it."""

    agent: Agent
    waiting: int
    has_turn: bool
    hold: Hold | None
    parked: Parked | None
    now_ms: int

    @property
    def status(self) -> str:
        """What it does now."""
        if self.has_turn:
            return "has a turn"
        if self.parked is not None:
            return f"parked: {self.parked.why}"
        return f"held: {self.hold.cause}, {relative(self.hold.until_ms, self.now_ms)}" if self.hold else "free"


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A message of a listing."""

    listed: Listed
    now_ms: int

    @property
    def agent(self) -> str:
        """To whom, by name where one is known."""
        names = [one.agent_name or one.agent for one in self.listed.receipt.deliveries[:NAMED]]
        more = self.listed.receipt.recipients - len(names)
        if names and more > 0:
            return f"{', '.join(names)} and {more:,} more"
        return ", ".join(names) or (in_short(self.listed.envelope.to) if self.listed.envelope else "")


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """One delivery of a listing."""

    delivery: DeliveryReceipt
    listed: Listed
    now_ms: int


@dataclass(frozen=True, slots=True)
class TenantRow:
    """A tenant and its counts."""

    tenant: Tenant
    counters: dict[str, int]

    def count(self, name: str) -> str:
        """One of its counts."""
        return str(self.counters.get(name, 0))


AGENTS: Listing[AgentRow] = Listing(
    columns=(
        Column("name", lambda row: row.agent.name),
        Column("waiting", lambda row: str(row.waiting), right=True),
        Column("now", lambda row: row.status),
        Column("id", lambda row: row.agent.id),
        Column("tags", lambda row: " ".join(row.agent.tags), wide=True),
    ),
    name=lambda row: row.agent.name,
    document=lambda row: {
        **row.agent.model_dump(mode="json"),
        "waiting": row.waiting,
        "has_turn": row.has_turn,
        "held_until_ms": row.hold.until_ms if row.hold and row.parked is None else None,
        "held_cause": row.hold.cause if row.hold else None,
        "parked_why": row.parked.why if row.parked else None,
    },
    nothing="no agents: on the Letta server, tag the tenant's agents with tenant:NAME (`postroom tenant show NAME`)",
)

MESSAGES: Listing[MessageRow] = Listing(
    columns=(
        Column("id", lambda row: row.listed.receipt.message_id),
        Column("state", lambda row: state_text(row.listed.receipt.state)),
        Column("agent", lambda row: row.agent),
        Column("age", lambda row: _age(row.listed, row.now_ms)),
        Column("priority", lambda row: row.listed.envelope.priority if row.listed.envelope else "", wide=True),
        Column("sender", lambda row: row.listed.envelope.sender if row.listed.envelope else "", wide=True),
        Column("cause", lambda row: _cause(row.listed.receipt.state, row.listed.receipt.cause)),
        Column("detail", lambda row: row.listed.receipt.detail or "", wide=True),
    ),
    name=lambda row: row.listed.receipt.message_id,
    document=lambda row: {
        **row.listed.receipt.model_dump(mode="json"),
        "to": row.agent,
        "priority": row.listed.envelope.priority if row.listed.envelope else None,
        "sender": row.listed.envelope.sender if row.listed.envelope else None,
    },
    nothing="no messages",
)

DELIVERIES: Listing[DeliveryRow] = Listing(
    columns=(
        Column("id", lambda row: row.delivery.id),
        Column("state", lambda row: state_text(row.delivery.state)),
        Column("agent", lambda row: row.delivery.agent_name or row.delivery.agent),
        Column("attempts", lambda row: str(row.delivery.attempts), right=True),
        Column("age", lambda row: _age(row.listed, row.now_ms)),
        Column("due", lambda row: _due(row.delivery, row.now_ms), wide=True),
        Column("cause", lambda row: _cause(row.delivery.state, row.delivery.cause)),
        Column("tokens", lambda row: str(row.delivery.total_tokens or ""), wide=True, right=True),
        Column("run", lambda row: row.delivery.run_id or "", wide=True),
        Column("detail", lambda row: row.delivery.detail or "", wide=True),
    ),
    name=lambda row: row.delivery.id,
    document=lambda row: {"message_id": row.listed.receipt.message_id, **row.delivery.model_dump(mode="json")},
    nothing="no deliveries",
)

TENANTS: Listing[TenantRow] = Listing(
    columns=(
        Column("name", lambda row: row.tenant.id),
        Column("status", lambda row: Text("suspended", "yellow") if row.tenant.suspended else Text("active", "green")),
        Column("waiting", lambda row: row.count("waiting"), right=True),
        Column("running", lambda row: row.count("running"), right=True),
        Column("delivered", lambda row: row.count("delivered"), right=True),
        Column("dead", lambda row: row.count("dead"), right=True),
        Column("per minute", lambda row: str(row.tenant.limits.per_minute), right=True, wide=True),
        Column("per team", lambda row: str(row.tenant.limits.team_per_minute), right=True, wide=True),
        Column("per agent", lambda row: str(row.tenant.limits.agent_per_minute), right=True, wide=True),
        Column("in flight", lambda row: str(row.tenant.limits.in_flight), right=True, wide=True),
        Column("bytes", lambda row: size_text(row.tenant.limits.max_bytes), right=True, wide=True),
    ),
    name=lambda row: row.tenant.id,
    document=lambda row: {**row.tenant.model_dump(mode="json"), "counters": row.counters},
    nothing="no tenants: `postroom tenant create NAME` registers one",
)


@app.command("agents")
def agents(tenant: TenantOption = None, form: FormOption = Form.TABLE, as_json: JsonOption = False) -> None:
    """The tenant's agents, read from the Letta server by their tag, and what waits for each.

    [bold]Example[/bold]

      postroom get agents -t acme -o wide
    """
    AGENTS.show(run(_agents(tenant)), form_of(form, as_json=as_json))


@app.command("teams")
def teams(tenant: TenantOption = None, form: FormOption = Form.TABLE, as_json: JsonOption = False) -> None:
    """The tenant's teams, also those that only agents' tags make, and how many agents are in each.

    [bold]Example[/bold]

      postroom get teams -t acme
    """
    TEAMS.show(run(team_rows(tenant)), form_of(form, as_json=as_json))


@app.command("messages")
def messages(
    tenant: TenantOption = None,
    limit: LimitOption = 20,
    state: StateOption = None,
    agent: AgentOption = None,
    team: TeamOption = None,
    accepted_since: SinceOption = None,
    until: UntilOption = None,
    thread: ThreadOption = None,
    unacked: Annotated[bool, typer.Option("--unacked", help="Only those that the reader has not acked.")] = False,
    reader: ReaderOption = None,
    form: FormOption = Form.TABLE,
    as_json: JsonOption = False,
) -> None:
    """The tenant's messages, newest first; a thread's, oldest first.

    [bold]Examples[/bold]

      postroom get messages -t acme

      postroom get messages -t acme --state dead --since 1h -o name

      postroom get messages -t acme --thread 01M7YF37W6VF26FW3DNHKT7TKR

      postroom get messages -t acme --team editorial --unacked --reader crm
    """
    if reader and not unacked:
        raise typer.BadParameter("--reader says whose acks count: give --unacked with it")
    wanted = Wanted(
        agent,
        team,
        state,
        milliseconds(accepted_since),
        milliseconds(until),
        (reader or principal()) if unacked else None,
    )
    rows = run(_messages(tenant, wanted, thread, limit))
    MESSAGES.show(rows, form_of(form, as_json=as_json))


@app.command("deliveries")
def deliveries(
    tenant: TenantOption = None,
    limit: LimitOption = 20,
    state: StateOption = None,
    agent: AgentOption = None,
    team: TeamOption = None,
    accepted_since: SinceOption = None,
    until: UntilOption = None,
    thread: ThreadOption = None,
    form: FormOption = Form.TABLE,
    as_json: JsonOption = False,
) -> None:
    """The deliveries of the tenant's messages, one for each recipient, newest first.

    [bold]Example[/bold]

      postroom get deliveries -t acme --agent researcher --state waiting -o wide
    """
    wanted = Wanted(agent, team, None, milliseconds(accepted_since), milliseconds(until), in_state=state)
    rows = run(_deliveries(tenant, wanted, thread, limit))
    DELIVERIES.show(rows, form_of(form, as_json=as_json))


@app.command("tenants")
def tenants(form: FormOption = Form.TABLE, as_json: JsonOption = False) -> None:
    """Every registered tenant.

    [bold]Example[/bold]

      postroom get tenants -o wide
    """
    TENANTS.show(run(tenant_rows()), form_of(form, as_json=as_json))


async def tenant_rows() -> list[TenantRow]:
    """Every tenant with its counts."""
    async with session() as opened:
        rows = []
        for id_ in await opened.tenants.all_ids(opened.operator):
            context = opened.operator.for_tenant(id_)
            tenant = await opened.tenants.show(opened.operator, id_)
            rows.append(TenantRow(tenant, await listing.counters(context, opened.client)))
        return rows


async def _agents(tenant: str | None) -> list[AgentRow]:
    async with session(letta=True) as opened, opened.directory() as directory:
        context = await opened.tenant(tenant)
        found = await directory.all(context)
        now_ms = await opened.now_ms()
        sizes = await listing.mailbox_sizes(context, opened.client, [agent.id for agent in found])
        busy = await listing.leased(context, opened.client)
        held = await listing.holds(context, opened.client, now_ms)
        parked = await parking.parked(context, opened.client)
        return [
            AgentRow(one, sizes[one.id], one.id in busy, held.get(one.id), parked.get(one.id), now_ms) for one in found
        ]


async def _messages(tenant: str | None, wanted: Wanted, thread: str | None, limit: int) -> list[MessageRow]:
    async with session() as opened:
        context = await opened.tenant(tenant)
        found = await chosen(opened, context, wanted, thread, limit)
        now_ms = await opened.now_ms()
        return [MessageRow(one, now_ms) for one in found]


async def _deliveries(tenant: str | None, wanted: Wanted, thread: str | None, limit: int) -> list[DeliveryRow]:
    async with session() as opened:
        context = await opened.tenant(tenant)
        found = await chosen(opened, context, wanted, thread, limit)
        now_ms = await opened.now_ms()
        mine = [(each, one) for one in found for each in one.receipt.deliveries if wanted.is_for(each, one.envelope)]
        return [DeliveryRow(each, one, now_ms) for each, one in mine[:limit]]


async def chosen(opened: Session, context: Context, wanted: Wanted, thread: str | None, limit: int) -> list[Listed]:
    """The newest messages that are wanted, newest first; of a thread, the oldest, oldest first."""
    if thread is None:
        return await search(context, opened.client, wanted, limit=limit)
    return await read_thread(context, opened.client, thread, wanted, limit=limit)


def milliseconds(moment: datetime | None) -> int | None:
    """A moment as the ledger counts."""
    return int(moment.timestamp() * 1000) if moment else None


def _cause(state: State, cause: Cause | None) -> str:
    """Nothing where all went well: a list is for finding what did not, `describe` for the words."""
    return "" if state is State.DELIVERED or cause is None else cause.replace("_", " ")


def _age(listed: Listed, now_ms: int) -> str:
    return span(max(0, now_ms - listed.receipt.accepted_at_ms) / 1000)


def _due(delivery: DeliveryReceipt, now_ms: int) -> str:
    return relative(delivery.due_at_ms, now_ms) if delivery.due_at_ms else ""
