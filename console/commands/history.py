"""`postroom history`: what an agent or a team was told, and what it said: a conversation, oldest first."""
# ruff: noqa: FBT002, PLR0917  # typer gives options by name

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from console.commands import get
from console.commands.options import JsonOption, TenantOption
from console.output import err, out, print_json, safe, state_text
from console.session import run, session
from console.times import local_iso, span
from console.words import in_words
from schemas.address import in_short
from schemas.delivery import State
from schemas.receipt import DeliveryReceipt
from workers.bus import listing
from workers.bus.listing import Listed
from workers.bus.search import FROM_AGENT, Wanted

SHOWN_LINES = 12
HELP = """What an agent or a team was told and what it said, oldest first: the text, the reply, how it ended.

Of an agent, also what it said to others. It goes back as far as messages are kept (POSTROOM_KEPT_DAYS).

[bold]Examples[/bold]

  postroom history --agent researcher -t acme

  postroom history --team editorial -t acme --since 2h

  postroom history --thread 01M7YF37W6VF26FW3DNHKT7TKR -t acme --json
"""


@dataclass(frozen=True, slots=True)
class Told:
    """One message of a conversation, with the deliveries that belong to it."""

    listed: Listed
    deliveries: Sequence[DeliveryReceipt]
    names: dict[str, str]
    """Of the remembered agents, by id."""

    @property
    def sender(self) -> str:
        """Who said it; an agent by its name."""
        said = self.listed.envelope.sender if self.listed.envelope else "?"
        return self.names.get(said.removeprefix(FROM_AGENT), said)

    @property
    def to(self) -> str:
        """To whom."""
        if self.listed.envelope is None:
            return ", ".join(one.agent_name or one.agent for one in self.deliveries) or "?"
        named = in_short(self.listed.envelope.to)
        return self.names.get(named, named)

    @property
    def text(self) -> str:
        """What was said; nothing where it cannot be read any more."""
        return self.listed.envelope.content if self.listed.envelope else ""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("history", help=HELP, rich_help_panel="Look")(history)


def history(
    agent: Annotated[str | None, typer.Option("--agent", "-a", help="An agent's, by name or id.")] = None,
    team: Annotated[str | None, typer.Option("--team", help="A team's.")] = None,
    thread: get.ThreadOption = None,
    tenant: TenantOption = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=100_000, help="The newest so many; of a thread, the oldest.")
    ] = 20,
    accepted_since: get.SinceOption = None,
    until: get.UntilOption = None,
    as_json: JsonOption = False,
) -> None:
    if agent is None and team is None and thread is None:
        raise typer.BadParameter("give --agent NAME, --team NAME or --thread ID")
    wanted = Wanted(
        agent, team, since_ms=get.milliseconds(accepted_since), until_ms=get.milliseconds(until), said=agent is not None
    )
    found = run(_history(tenant, wanted, thread, limit))
    if as_json:
        print_json([_document(one) for one in found])
    elif not found:
        err.print("nothing was said, as far as messages are kept", style="dim")
    else:
        for one in found:
            _show(out(), one)


async def _history(tenant: str | None, wanted: Wanted, thread: str | None, limit: int) -> list[Told]:
    async with session() as opened:
        context = await opened.tenant(tenant)
        found = await get.chosen(opened, context, wanted, thread, limit)
        names = {agent.id: agent.name for agent in await listing.known_agents(context, opened.client)}
        in_order = found if thread is not None else found[::-1]
        return [_told(one, wanted, names) for one in in_order]


def _told(one: Listed, wanted: Wanted, names: dict[str, str]) -> Told:
    mine = [each for each in one.receipt.deliveries if wanted.is_for(each, one.envelope)]
    # What the agent itself said went to others: all of them.
    return Told(one, mine or one.receipt.deliveries, names)


def _document(one: Told) -> dict[str, Any]:
    receipt = one.listed.receipt
    told = {"agent", "agent_name", "state", "cause", "detail", "reply", "delivered_at_ms", "ended_at_ms"}
    return {
        "message_id": receipt.message_id,
        "at_ms": receipt.accepted_at_ms,
        "from": one.sender,
        "to": one.to,
        "text": one.text,
        "state": receipt.state,
        "cause": receipt.cause,
        "deliveries": [each.model_dump(mode="json", include=told) for each in one.deliveries],
    }


def _show(console: Console, one: Told) -> None:
    receipt = one.listed.receipt
    line = Text(local_iso(receipt.accepted_at_ms), style="dim")
    line.append(f"  {safe(one.sender)}", style="not dim bold").append(" → ", style="not dim")
    line.append(safe(one.to), style="not dim bold").append(f"  {safe(receipt.message_id)}")
    console.print(line, soft_wrap=True)
    _block(console, one.text)
    if not one.deliveries:
        console.print(_end(receipt.state, in_words(receipt.state, receipt.cause), receipt.detail), soft_wrap=True)
    for each in one.deliveries:
        name = each.agent_name or each.agent
        if each.state is State.DELIVERED:
            took = f" in {span(max(0, (each.ended_at_ms or 0) - receipt.accepted_at_ms) / 1000)}"
            console.print(_end(each.state, f"{name}{took}", None if each.reply else each.detail), soft_wrap=True)
            _block(console, each.reply or "")
        else:
            why = in_words(each.state, each.cause)
            console.print(_end(each.state, f"{name}: {why}", each.detail), soft_wrap=True)
    console.print()


def _end(state: State, words: str, detail: str | None) -> Text:
    line = Text("  ")
    line.append_text(state_text(state))
    line.append(f"  {safe(words)}")
    return line.append(f" ({safe(detail)})" if detail else "", style="dim")


def _block(console: Console, text: str) -> None:
    lines = safe(text).splitlines()
    for line in lines[:SHOWN_LINES]:
        console.print(Text(f"  │ {line}"), soft_wrap=True)
    if len(lines) > SHOWN_LINES:
        console.print(Text(f"  … {len(lines) - SHOWN_LINES} more lines; --json has all", style="dim"))
