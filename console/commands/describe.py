"""`postroom describe`: one message, or one tenant, with everything that is known of it."""
# ruff: noqa: FBT002  # typer gives options by name

from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from console.commands import tenant as tenant_command
from console.commands.options import JsonOption, TenantOption
from console.output import out, pairs, print_json, safe, state_text
from console.progress import counts
from console.session import run, session
from console.times import clock_time, local_iso, relative, span
from console.words import in_words
from schemas.address import in_short
from schemas.envelope import Envelope
from schemas.ids import is_message_id
from schemas.receipt import DeliveryReceipt, Receipt
from workers.bus import listing
from workers.bus.listing import Listed
from workers.errors import NotFoundError

app = typer.Typer(no_args_is_help=True, help="Everything about one message or tenant.")
SHOWN_LINES = 12
SHOWN_DELIVERIES = 5
"""Of a message to many, so many are described; the others are counted."""


def register(parent: typer.Typer) -> None:
    """Adds the commands."""
    parent.add_typer(app, name="describe", rich_help_panel="Look")


@dataclass(frozen=True, slots=True)
class Described:
    """A message, and when it was looked at."""

    listed: Listed
    now_ms: int


@app.command("message")
def message(
    message_id: Annotated[str, typer.Argument(metavar="ID", help="The message's id.", show_default=False)],
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """A message's receipt with its history, and in words why it is where it is.

    [bold]Example[/bold]

      postroom describe message 01M7YF37W6VF26FW3DNHKT7TKR -t acme
    """
    described = run(_read(tenant, message_id))
    if as_json:
        print_json(_document(described))
    else:
        _show(out(), described)


@app.command("tenant")
def tenant(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Left out: POSTROOM_TENANT.")] = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """A tenant: the same as `postroom tenant show`.

    [bold]Example[/bold]

      postroom describe tenant acme
    """
    shown = run(tenant_command.show_one(name or tenant))
    if as_json:
        print_json(tenant_command.document(shown))
    else:
        tenant_command.describe(shown)


async def _read(tenant: str | None, message_id: str) -> Described:
    async with session() as opened:
        context = await opened.tenant(tenant)
        if not is_message_id(message_id):
            raise NotFoundError(f"there is no message {message_id!r} in tenant {context.tenant!r}")
        found = await listing.read_message(context, opened.client, message_id)
        return Described(found, await opened.now_ms())


def _document(described: Described) -> dict[str, object]:
    envelope = described.listed.envelope
    return {
        "receipt": described.listed.receipt.model_dump(mode="json"),
        "envelope": envelope.model_dump(mode="json", exclude_none=True) if envelope else None,
        "waits_for": [
            _because(one, described) for one in described.listed.receipt.deliveries if not one.state.is_final
        ],
    }


def _show(console: Console, described: Described) -> None:
    receipt, envelope = described.listed.receipt, described.listed.envelope
    console.print(pairs(_head(receipt, envelope, described.now_ms)))
    if envelope is not None:
        _block(console, "content", envelope.content)
    if not receipt.deliveries:
        console.print(Text("\nit came into no mailbox", style="dim"))
    for one in receipt.deliveries[:SHOWN_DELIVERIES]:
        console.print(Text(f"\ndelivery {safe(one.id)}", style="bold"))
        console.print(pairs(_delivery(one, described)))
        console.print(_history(one, receipt.accepted_at_ms))
        if one.reply is not None:
            _block(console, "reply", one.reply)
    if (more := receipt.recipients - SHOWN_DELIVERIES) > 0:
        number = "1 more delivery" if more == 1 else f"{more:,} more deliveries"
        said = f"\n… {number}; `postroom bulk results {receipt.message_id}` shows them all"
        console.print(Text(said, style="dim"), soft_wrap=True)


def _head(receipt: Receipt, envelope: Envelope | None, now_ms: int) -> list[tuple[str, str | Text]]:
    rows: list[tuple[str, str | Text]] = [
        ("message", Text(safe(receipt.message_id), "bold")),
        ("state", state_text(receipt.state)),
        ("because", in_words(receipt.state, receipt.cause)),
        *([("detail", receipt.detail)] if receipt.detail else []),
        ("accepted", _moment(receipt.accepted_at_ms, now_ms)),
    ]
    if receipt.recipients > 1:
        ends = counts(receipt.ends)
        rows.append(("recipients", f"{receipt.recipients:,}, {receipt.open:,} open{f': {ends}' if ends else ''}"))
    if receipt.expires_at_ms is not None:
        rows.append(("expires", _moment(receipt.expires_at_ms, now_ms)))
    rows += [("read by", f"{reader}  {_moment(at_ms, now_ms)}") for reader, at_ms in receipt.acked_at_ms.items()]
    if envelope is not None:
        rows += [("from", envelope.sender), ("to", in_short(envelope.to)), ("priority", envelope.priority.value)]
        if envelope.reply_to is not None:
            rows.append(("reply to", in_short(envelope.reply_to)))
        if envelope.causation_id is not None:
            rows.append(("follows", f"{envelope.causation_id}  (hop {envelope.hops})"))
        if envelope.conversation is not None:
            rows.append(("conversation", envelope.conversation))
    return rows


def _delivery(one: DeliveryReceipt, described: Described) -> list[tuple[str, str | Text]]:
    rows: list[tuple[str, str | Text]] = [
        ("  agent", f"{one.agent_name}  {one.agent}" if one.agent_name else one.agent),
        ("  state", state_text(one.state)),
        ("  attempts", str(one.attempts)),
        *([("  teams", ", ".join(one.teams))] if one.teams else []),
    ]
    if not one.state.is_final:
        rows.append(("  waits", _because(one, described)))
    if one.delivered_at_ms is not None:
        rows.append(("  delivered", _moment(one.delivered_at_ms, described.now_ms)))
    if one.read_at_ms is not None:
        rows.append(("  read", _moment(one.read_at_ms, described.now_ms)))
    if one.ended_at_ms is not None and one.read_at_ms is None:
        rows.append(("  ended", _moment(one.ended_at_ms, described.now_ms)))
    if one.late:
        rows.append(("  late", "its turn began in time and ended after the expiry"))
    if one.run_id:
        rows.append(("  run", one.run_id))
    if one.total_tokens:
        rows.append(("  tokens", str(one.total_tokens)))
    if one.reply_message_id:
        rows.append(("  sent on as", one.reply_message_id))
    return rows


def _because(one: DeliveryReceipt, described: Described) -> str:
    """What an unfinished delivery waits for, and until when where that is known."""
    why = in_words(one.state, one.cause)
    if one.due_at_ms:
        return f"{why}; until {clock_time(one.due_at_ms)} ({relative(one.due_at_ms, described.now_ms)})"
    return why


def _history(one: DeliveryReceipt, accepted_at_ms: int) -> Text:
    table = Text("  history\n", style="")
    table.stylize("dim", 0, 9)
    for step in one.history:
        table.append(f"    {local_iso(step.at_ms)}  ")
        table.append(f"{'+' + span((step.at_ms - accepted_at_ms) / 1000):>9}  ", style="dim")
        state = state_text(step.state)
        table.append_text(state)
        table.append(" " * (10 - len(state)))
        table.append(f"{in_words(step.state, step.cause)}\n", style="dim")
    table.rstrip()
    return table


def _block(console: Console, name: str, text: str) -> None:
    """A text, its head where it is long."""
    lines = safe(text).splitlines()
    shown = lines[:SHOWN_LINES]
    console.print(Text(f"\n{name}", style="dim"))
    for line in shown:
        console.print(Text(f"  │ {line}"), soft_wrap=True)
    if len(lines) > len(shown):
        console.print(Text(f"  … {len(lines) - len(shown)} more lines; --json has all", style="dim"))


def _moment(at_ms: int, now_ms: int) -> str:
    return f"{local_iso(at_ms)}  ({relative(at_ms, now_ms)})"
