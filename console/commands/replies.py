"""`postroom get replies`: what stands on a stream or a queue that replies go to. Reads, and consumes nothing."""
# ruff: noqa: FBT002, PLR0917  # typer gives options by name

from dataclasses import dataclass
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from console.commands import get
from console.commands.options import FormOption, JsonOption, TenantOption, form_of
from console.output import Column, Form, Listing, state_text
from console.session import run, session
from console.times import span
from schemas.address import BoxName, QueueAddress, StreamAddress
from workers.bus import listing
from workers.bus.replies import Posted, read_replies

SHOWN_CHARACTERS = 80
HELP = """What was posted for readers that are no agents, newest first: replies and every other end. It stays there.

A message's --reply-to names the place. Each delivery is told of once, as one JSON document: on a stream in the field
`message`, on a queue as the element. A stream is capped by age, as the receipts are.

[bold]Examples[/bold]

  postroom send researcher "Look into it" -t acme --reply-to stream:crm

  postroom get replies --stream crm -t acme

  redis-cli XREAD BLOCK 0 STREAMS 'postroom:{acme}:out:crm' 0     (then behind the last entry's id)

  redis-cli BLPOP 'postroom:{acme}:callback:jobs' 0     (--reply-to queue:jobs; one reader pops it)
"""


@dataclass(frozen=True, slots=True)
class ReplyRow:
    """One document of a listing."""

    posted: Posted
    agent_name: str | None
    now_ms: int


REPLIES: Listing[ReplyRow] = Listing(
    columns=(
        Column("delivery", lambda row: row.posted.reply.id),
        Column("state", lambda row: state_text(row.posted.reply.state)),
        Column("agent", lambda row: row.agent_name or row.posted.reply.agent or ""),
        Column("age", lambda row: span(max(0, row.now_ms - row.posted.reply.at_ms) / 1000)),
        Column("text", lambda row: _head(row.posted.reply.text or row.posted.reply.detail)),
        Column("tokens", lambda row: str(row.posted.reply.total_tokens or ""), wide=True, right=True),
        Column("correlation", lambda row: row.posted.reply.correlation_id, wide=True),
        Column("entry", lambda row: row.posted.entry_id or "", wide=True),
    ),
    name=lambda row: row.posted.reply.id,
    document=lambda row: {
        "entry_id": row.posted.entry_id,
        **row.posted.reply.model_dump(mode="json"),
        "agent_name": row.agent_name,
    },
    nothing="no replies there: `postroom send ... --reply-to stream:NAME` sends them",
)


def register(_parent: typer.Typer) -> None:
    """Adds the command."""
    get.app.command("replies", help=HELP)(replies)


def replies(
    stream: Annotated[str | None, typer.Option("--stream", metavar="NAME", help="The stream.")] = None,
    queue: Annotated[str | None, typer.Option("--queue", metavar="NAME", help="The callback queue.")] = None,
    tenant: TenantOption = None,
    limit: get.LimitOption = 20,
    form: FormOption = Form.TABLE,
    as_json: JsonOption = False,
) -> None:
    REPLIES.show(run(_replies(tenant, _place(stream, queue), limit)), form_of(form, as_json=as_json))


def _place(stream: str | None, queue: str | None) -> StreamAddress | QueueAddress:
    name = stream or queue
    if name is None or (stream and queue):
        raise typer.BadParameter("give --stream NAME or --queue NAME, as in the message's --reply-to")
    try:
        TypeAdapter(BoxName).validate_python(name)
    except ValidationError:
        raise typer.BadParameter(f"{name!r} cannot be a name: letters, digits, dot, dash, underscore") from None
    return StreamAddress(stream=name) if stream else QueueAddress(queue=name)


async def _replies(tenant: str | None, place: StreamAddress | QueueAddress, limit: int) -> list[ReplyRow]:
    async with session() as opened:
        context = await opened.tenant(tenant)
        found = await read_replies(context, opened.client, place, limit=limit)
        names = {agent.id: agent.name for agent in await listing.known_agents(context, opened.client)}
        now_ms = await opened.now_ms()
        return [ReplyRow(one, names.get(one.reply.agent or ""), now_ms) for one in found]


def _head(text: str) -> str:
    line = " ".join(text[: 2 * SHOWN_CHARACTERS].split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 1]}…"
