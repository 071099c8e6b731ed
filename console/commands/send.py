"""`postroom send`: publishes one message, and waits for its end where asked."""
# ruff: noqa: FBT002, PLR0917  # typer gives options by name

import json
import sys
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from console.addresses import this_command
from console.commands.options import JsonOption, TenantOption, duration, reply_address, when
from console.exits import Code
from console.output import err, print_json, print_text, safe, state_text
from console.session import run, session
from console.times import span
from console.words import in_words
from schemas.delivery import State
from schemas.envelope import OnUnknown, Priority
from schemas.receipt import Receipt
from workers.errors import DeadlineError, InvalidEnvelopeError

WAIT_SECONDS = 60.0
HELP = """Send TEXT to an agent of a tenant, by name or id.

Without --wait it prints the message's id as soon as the message is kept; with --wait it prints the reply.

[bold]Examples[/bold]

  postroom send researcher "What is new in memory?" -t acme --wait

  postroom send writer "Draft the notes" -t acme --priority urgent --expires-in 10m

  cat report.txt | postroom send editor - -t acme --id report-7 --reply-to writer

  postroom send researcher "Look into it" -t acme --reply-to stream:crm     (read by `postroom get replies`)

  postroom send support "Good morning" -t acme --not-before 2026-01-31T09:00
"""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("send", help=HELP, rich_help_panel="Use")(send)


def send(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="The agent's name or id.", show_default=False)],
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="What to say; - reads it from stdin.", show_default=False)
    ],
    tenant: TenantOption = None,
    priority: Annotated[Priority, typer.Option(help="Order inside the tenant.")] = Priority.NORMAL,
    expires_in: Annotated[
        float | None, typer.Option(parser=duration, metavar="TIME", help="No turn starts later than this: 10m, 2h.")
    ] = None,
    not_before: Annotated[
        datetime | None, typer.Option(parser=when, metavar="WHEN", help="No turn starts before: ISO time or +5m.")
    ] = None,
    message_id: Annotated[
        str | None, typer.Option("--id", help="Your own id: the same id and body is accepted once.")
    ] = None,
    reply_to: Annotated[
        str | None,
        typer.Option(metavar="WHERE", help="Send the reply on: AGENT, team:NAME[/ROLE], stream:NAME or queue:NAME."),
    ] = None,
    conversation: Annotated[str | None, typer.Option(help="A conversation of the agent.")] = None,
    on_unknown: Annotated[
        OnUnknown, typer.Option(help="What to do when nobody can tell whether the agent got it.")
    ] = OnUnknown.REDELIVER,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Kept with the message, not sent. Repeatable.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end and print the reply.")] = False,
    timeout: Annotated[
        float | None, typer.Option(parser=duration, metavar="TIME", help="How long to wait; 1m unless given.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    options = {
        "id": message_id,
        "priority": priority,
        "expires_in": expires_in,
        "not_before": not_before,
        "reply_to": reply_address(reply_to) if reply_to else None,
        "conversation": conversation,
        "on_unknown": on_unknown,
        "metadata": dict(_pair(one) for one in metadata or []),
    }
    content = _stdin() if text == "-" else text
    receipt = run(_send(tenant, agent, content, options, (timeout or WAIT_SECONDS) if wait else None))
    _show(receipt, as_json=as_json, waited=wait)
    if wait and receipt.state is not State.DELIVERED:
        raise typer.Exit(Code.NOT_DELIVERED)


async def _send(tenant: str | None, agent: str, content: str, options: dict[str, Any], within: float | None) -> Receipt:
    async with session() as opened:
        client = opened.producer(await opened.tenant_id(tenant))
        try:
            sent = await client.send(agent, content, **options)
            if within is None:
                return sent
            try:
                return await client.wait(sent.message_id, within=within)
            except DeadlineError as error:
                raise DeadlineError(f"{error}; `postroom describe message {sent.message_id}` tells more") from None
        finally:
            await client.close()


def _show(receipt: Receipt, *, as_json: bool, waited: bool) -> None:
    if as_json:
        print_json(receipt.model_dump(mode="json"))
    elif not waited:
        print(receipt.message_id)
        said = "known already under this id, nothing added" if receipt.duplicate else "accepted"
        err.print(f"{said}; {this_command()} describe message {receipt.message_id}", style="dim", soft_wrap=True)
    else:
        if receipt.reply is not None:
            print_text(receipt.reply)
        err.print(_end(receipt), soft_wrap=True)


def _end(receipt: Receipt) -> Text:
    """How it ended, in one line."""
    line = Text("")
    line.append_text(state_text(receipt.state))
    ended = max((one.read_at_ms or 0 for one in receipt.deliveries), default=0)
    if receipt.state is State.DELIVERED and ended:
        line.append(f" in {span((ended - receipt.accepted_at_ms) / 1000)}")
    elif receipt.state is not State.DELIVERED:
        why, detail = in_words(receipt.state, receipt.cause), safe(receipt.detail or "")
        line.append(f": {detail if why in detail else why}")
        if detail and why not in detail:
            line.append(f" ({detail})")
    line.append(f"  {receipt.message_id}", style="dim")
    return line


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"expected KEY=VALUE, got {text!r}", param_hint="--metadata")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _stdin() -> str:
    raw = sys.stdin.buffer.read()
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidEnvelopeError(f"not UTF-8 at byte {error.start}", where="stdin") from None
