"""`postroom send`: publishes one message, to an agent, a team or many, and waits for its end where asked."""
# ruff: noqa: FBT001, FBT002, PLR0917  # typer gives options by name

import json
import sys
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from console import preview
from console.addresses import this_command
from console.commands import bulk
from console.commands.options import JsonOption, TenantOption, duration, reply_address, when
from console.exits import Code
from console.output import Form, err, print_json, print_text, safe, state_text
from console.progress import watch
from console.session import Session, run, session
from console.times import span
from console.words import in_words
from schemas.address import AgentAddress, SelectorAddress, TeamAddress
from schemas.delivery import State
from schemas.envelope import OnUnknown, Priority
from schemas.gathered import Gathered
from schemas.receipt import Receipt
from workers.bus.client import TenantClient
from workers.errors import DeadlineError, InvalidEnvelopeError

WAIT_SECONDS = 60.0
HELP = """Send TEXT to an agent by name or id, to a team, or to all agents that tags or a name pattern select.

Without --wait it prints the message's id as soon as the message is kept; with --wait it prints the reply. To many, it
asks first, and --wait shows how far it has come.

[bold]Examples[/bold]

  postroom send researcher "What is new in memory?" -t acme --wait

  postroom send writer "Draft the notes" -t acme --priority urgent --expires-in 10m

  cat report.txt | postroom send editor - -t acme --id report-7 --reply-to writer

  postroom send researcher "Look into it" -t acme --reply-to stream:crm     (read by `postroom get replies`)

  postroom send support "Good morning" -t acme --not-before 2026-01-31T09:00

  postroom send --team editorial "What do you think?" -t acme --gather all --timeout 2m

  postroom send --tags role:support,env:prod "New prices" -t acme --dry-run

  postroom send --all "support-*" - -t acme --id prices-7 --confirm --wait < prices.txt
"""
GATHER_HELP = "Print the replies of a team as one: all, or the first N, or those that come within --timeout."
Address = AgentAddress | TeamAddress | SelectorAddress


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks for beside the message."""

    wait: bool
    within: float | None
    gather: str | None
    dry_run: bool
    confirmed: bool
    everyone: bool
    as_json: bool


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("send", help=HELP, rich_help_panel="Use")(send)


def send(
    words: Annotated[
        list[str],
        typer.Argument(metavar="[AGENT] TEXT", help="To whom, unless an option says it, and what; - reads stdin."),
    ],
    tenant: TenantOption = None,
    team: Annotated[str | None, typer.Option(help="To every member of this team.")] = None,
    role: Annotated[str | None, typer.Option(help="Of the team, only those with this role.")] = None,
    tags: Annotated[
        str | None,
        typer.Option(metavar="TAG,TAG", help="To every agent that has all these tags: role:support,env:prod."),
    ] = None,
    all_: Annotated[
        str | None, typer.Option("--all", metavar="PATTERN", help='To every agent whose name fits: "support-*".')
    ] = None,
    canaries: Annotated[bool, typer.Option("--canaries", help="Also to copies under the canary prefix.")] = False,
    everyone: Annotated[
        bool, typer.Option("--everyone", help="As operator: allow a selection that narrows nothing.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say who would get it, and send nothing.")] = False,
    confirm: Annotated[
        bool, typer.Option("--confirm", help=f"Do not ask, however many (past {preview.ASK_PAST} it asks).")
    ] = False,
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
    gather: Annotated[str | None, typer.Option(metavar="all|N", help=GATHER_HELP)] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end and print the reply.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option(parser=duration, metavar="TIME", help="How long to wait; unless given 1m, to many to the end."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    to, text = _addressed(words, team, role, tags, all_, canaries)
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
    wish = Wish(wait, timeout, gather, dry_run, confirm, everyone, as_json)
    run(_send(tenant, to, content, options, wish))


def _addressed(
    words: list[str], team: str | None, role: str | None, tags: str | None, pattern: str | None, canaries: bool
) -> tuple[Address, str]:
    """To whom, and the text."""
    if role is not None and team is None:
        raise typer.BadParameter("--role is of a team: give --team, too")
    if team is not None and (tags is not None or pattern is not None):
        raise typer.BadParameter("give --team, or --tags and --all, not both")
    if canaries and tags is None and pattern is None:
        raise typer.BadParameter("--canaries is for --tags and --all")
    by_option = team is not None or tags is not None or pattern is not None
    if len(words) != (1 if by_option else 2):
        expected = "TEXT alone: an option says to whom" if by_option else "AGENT TEXT"
        raise typer.BadParameter(f"expected {expected}, got {len(words)} words (quote the text)")
    try:
        if team is not None:
            return TeamAddress(team=team, role=role), words[-1]
        if by_option:
            named = tuple(tag.strip() for tag in (tags or "").split(",") if tag.strip())
            return SelectorAddress(tags=named, name=pattern, canaries=canaries), words[-1]
        return AgentAddress(agent=words[0]), words[-1]
    except ValueError as error:
        raise typer.BadParameter(f"not an address: {error}") from None


async def _send(tenant: str | None, to: Address, content: str, options: dict[str, Any], wish: Wish) -> None:
    async with session() as opened:
        tenant_id = await opened.tenant_id(tenant)
        client = opened.producer(tenant_id, operator=wish.everyone)
        try:
            if wish.dry_run or isinstance(to, SelectorAddress):
                found = await _previewed(opened, await opened.tenant(tenant), to, content, wish)
                if found is None:
                    return
                to = found
            if wish.gather is not None:
                await _gather(client, to, content, options, wish)
            else:
                await _publish(client, to, content, options, wish)
        finally:
            await client.close()


async def _previewed(opened: Session, context: Any, to: Address, content: str, wish: Wish) -> Address | None:
    """The address with how many are meant; None: that was all that was asked for."""
    found = await preview.preview(opened, context, to, content, operator=wish.everyone)
    if wish.dry_run:
        if wish.as_json:
            print_json(preview.document(found))
        else:
            preview.show(found, Form.TABLE)
        return None
    preview.confirm(found, confirmed=wish.confirmed)
    return to.model_copy(update={"at_most": max(1, found.number)}) if isinstance(to, SelectorAddress) else to


async def _publish(client: TenantClient, to: Address, content: str, options: dict[str, Any], wish: Wish) -> None:
    sent = await client.send(to, content, **options)
    if not wish.wait:
        _show(sent, wish, waited=False)
        return
    if isinstance(to, SelectorAddress):
        bulk.finish(await watch(client, sent.message_id, within=wish.within), as_json=wish.as_json)
    try:
        receipt = await client.wait(sent.message_id, within=wish.within or WAIT_SECONDS)
    except DeadlineError as error:
        raise DeadlineError(f"{error}; `postroom describe message {sent.message_id}` tells more") from None
    _show(receipt, wish, waited=True)
    if receipt.state is not State.DELIVERED:
        raise typer.Exit(Code.PARTIAL if receipt.ends.get(State.DELIVERED) else Code.NOT_DELIVERED)


async def _gather(client: TenantClient, to: Address, content: str, options: dict[str, Any], wish: Wish) -> None:
    if not isinstance(to, TeamAddress):
        raise typer.BadParameter("--gather is for --team")
    want = wish.gather or "all"
    if want != "all" and not (want.isascii() and want.isdigit() and int(want) > 0):
        raise typer.BadParameter(f"expected all or a number, got {want!r}", param_hint="--gather")
    given = {name: value for name, value in options.items() if value is not None}
    found = await client.gather(
        to, content, within=wish.within or WAIT_SECONDS, want="all" if want == "all" else int(want), **given
    )
    if wish.as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _show_gathered(found)
    if not found.complete:
        raise typer.Exit(Code.PARTIAL if found.replies else Code.NOT_DELIVERED)


def _show_gathered(found: Gathered) -> None:
    for reply in found.replies:
        err.print(Text(f"[{safe(reply.who)}]", "bold"))
        print_text(reply.text or f"(empty: the turn ended by {reply.stop_reason})")
    line = f"{len(found.replies)} of {found.recipients} replied"
    if found.missing:
        line += "; without " + ", ".join(f"{safe(one.who)} ({one.state})" for one in found.missing)
    err.print(Text(f"{line}  {found.message_id}", "dim"), soft_wrap=True)


def _show(receipt: Receipt, wish: Wish, *, waited: bool) -> None:
    if wish.as_json:
        print_json(receipt.model_dump(mode="json"))
    elif not waited:
        print(receipt.message_id)
        said = "known already under this id, nothing added" if receipt.duplicate else "accepted"
        err.print(f"{said}; {this_command()} describe message {receipt.message_id}", style="dim", soft_wrap=True)
    else:
        for one in receipt.deliveries:
            if one.reply is not None:
                if receipt.recipients > 1:
                    err.print(Text(f"[{safe(one.agent_name or one.agent)}]", "bold"))
                print_text(one.reply)
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
