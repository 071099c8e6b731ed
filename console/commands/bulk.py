"""`postroom bulk`: messages to many, while they go and afterwards."""
# ruff: noqa: FBT002  # typer gives options by name

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.text import Text

from console.commands.options import FormOption, JsonOption, TenantOption, duration, form_of
from console.exits import Code
from console.output import Column, Form, Listing, err, out, pairs, print_json, safe, state_text
from console.progress import code_of, counts, watch
from console.session import run, session
from console.times import local_iso, relative, span
from console.words import in_words
from schemas.address import in_short
from schemas.delivery import Cause, State
from schemas.envelope import Envelope
from schemas.receipt import DeliveryReceipt, Receipt
from workers.bus import listing
from workers.bus.bulk import TakenBack
from workers.bus.client import TenantClient

app = typer.Typer(no_args_is_help=True, help="Messages to many: look at them, pause, resume or cancel them.")

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The message's id.", show_default=False)]
LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most this many, newest first.")]
LEAST_SECONDS = 5.0
"""A rate is told once there is so much to tell it by."""


def register(parent: typer.Typer) -> None:
    """Adds the commands."""
    parent.add_typer(app, name="bulk", rich_help_panel="Use")


@dataclass(frozen=True, slots=True)
class BulkRow:
    """A message to many in a listing."""

    receipt: Receipt
    now_ms: int

    @property
    def status(self) -> Text:
        """Paused is told before any state."""
        paused = self.receipt.paused_at_ms and not self.receipt.is_final
        return Text("paused", "yellow") if paused else state_text(self.receipt.state)


@dataclass(frozen=True, slots=True)
class Shown:
    """One message to many, counted through."""

    receipt: Receipt
    envelope: Envelope | None
    now: Counter[tuple[State, Cause | None]]
    now_ms: int

    @property
    def left_seconds(self) -> float | None:
        """How long the rest takes at the rate so far; None where nobody can say."""
        done, since = self.receipt.recipients - self.receipt.open, (self.now_ms - self.receipt.accepted_at_ms) / 1000
        if not self.receipt.open or not done or since < LEAST_SECONDS or self.receipt.paused_at_ms:
            return None
        return self.receipt.open / done * since


BULKS: Listing[BulkRow] = Listing(
    columns=(
        Column("id", lambda row: row.receipt.message_id),
        Column("state", lambda row: row.status),
        Column("recipients", lambda row: f"{row.receipt.recipients:,}", right=True),
        Column("open", lambda row: f"{row.receipt.open:,}", right=True),
        Column("ends", lambda row: counts(row.receipt.ends)),
        Column("age", lambda row: span((row.now_ms - row.receipt.accepted_at_ms) / 1000)),
    ),
    name=lambda row: row.receipt.message_id,
    document=lambda row: document(row.receipt),
    nothing="no bulk sends: `postroom send --tags role:support TEXT` makes one",
)

RESULTS: Listing[DeliveryReceipt] = Listing(
    columns=(
        Column("agent", lambda one: one.agent_name or one.agent),
        Column("state", lambda one: state_text(one.state)),
        Column("cause", lambda one: one.cause.value if one.cause and one.state is not State.DELIVERED else ""),
        Column("attempts", lambda one: str(one.attempts), right=True),
        Column("detail", lambda one: one.detail or ""),
        Column("tokens", lambda one: str(one.total_tokens or ""), wide=True, right=True),
        Column("delivered_at", lambda one: local_iso(one.delivered_at_ms) if one.delivered_at_ms else "", wide=True),
        Column("read_at", lambda one: local_iso(one.read_at_ms) if one.read_at_ms else "", wide=True),
        Column("run", lambda one: one.run_id or "", wide=True),
        Column("reply", lambda one: one.reply or "", wide=True),
        Column("agent_id", lambda one: one.agent, wide=True),
        Column("id", lambda one: one.id, wide=True),
    ),
    name=lambda one: one.id,
    document=lambda one: one.model_dump(mode="json", exclude={"history"}),
    nothing="no such deliveries",
)


@app.command("list")
def list_(
    tenant: TenantOption = None, limit: LimitOption = 20, form: FormOption = Form.TABLE, as_json: JsonOption = False
) -> None:
    """The tenant's bulk sends, newest first, with how far each has come.

    [bold]Example[/bold]

      postroom bulk list -t acme
    """

    async def work() -> list[BulkRow]:
        async with session() as opened:
            context = await opened.tenant(tenant)
            found = await opened.producer(context.tenant).bulk.list(limit=limit)
            now_ms = await opened.now_ms()
            return [BulkRow(one, now_ms) for one in found]

    BULKS.show(run(work()), form_of(form, as_json=as_json))


@app.command("show")
def show(message_id: IdArgument, tenant: TenantOption = None, as_json: JsonOption = False) -> None:
    """One message to many: how many deliveries are where and why, and how long the rest will take.

    [bold]Example[/bold]

      postroom bulk show notice-7 -t acme
    """

    async def work() -> Shown:
        async with session() as opened:
            context = await opened.tenant(tenant)
            client = opened.producer(context.tenant)
            receipt = await client.bulk.show(message_id)
            now: Counter[tuple[State, Cause | None]] = Counter()
            async for one in client.bulk.deliveries(message_id):
                now[one.state, one.cause] += 1
            if (unmade := receipt.recipients - now.total()) > 0:
                now[State.ACCEPTED, None] = unmade
            envelope = (await listing.read_message(context, opened.client, message_id)).envelope
            return Shown(receipt, envelope, now, await opened.now_ms())

    shown = run(work())
    if as_json:
        by_cause = [{"state": state, "cause": cause, "count": n} for (state, cause), n in shown.now.most_common()]
        print_json({**document(shown.receipt), "now": by_cause, "seconds_left": shown.left_seconds})
    else:
        _describe(shown)


@app.command("results")
def results(
    message_id: IdArgument,
    tenant: TenantOption = None,
    state: Annotated[State | None, typer.Option("--state", "-s", help="Only those in this state.")] = None,
    form: FormOption = Form.TABLE,
    as_json: JsonOption = False,
) -> None:
    """What became of it for each recipient, as a table, JSON or CSV (-o csv: with the replies).

    [bold]Examples[/bold]

      postroom bulk results notice-7 -t acme -o csv > notice-7.csv

      postroom bulk results notice-7 -t acme --state dead
    """

    async def work() -> list[DeliveryReceipt]:
        async with session() as opened:
            context = await opened.tenant(tenant)
            found = opened.producer(context.tenant).bulk.deliveries(message_id)
            return [one async for one in found if state in {None, one.state}]

    RESULTS.show(run(work()), form_of(form, as_json=as_json))


@app.command("watch")
def watch_(
    message_id: IdArgument,
    tenant: TenantOption = None,
    timeout: Annotated[
        float | None, typer.Option(parser=duration, metavar="TIME", help="How long; to the end unless given.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Wait for the end, with a bar. Exit code 0: all delivered, 8: some, 5: none, 7: not over in time.

    [bold]Example[/bold]

      postroom bulk watch notice-7 -t acme --timeout 10m
    """

    async def work() -> Receipt:
        async with session() as opened:
            context = await opened.tenant(tenant)
            return await watch(opened.producer(context.tenant), message_id, within=timeout)

    finish(run(work()), as_json=as_json)


@app.command("pause")
def pause(message_id: IdArgument, tenant: TenantOption = None, as_json: JsonOption = False) -> None:
    """Let no further turn of it begin. What runs comes to its end; what expires meanwhile expires.

    [bold]Example[/bold]

      postroom bulk pause notice-7 -t acme
    """
    receipt = run(_change(tenant, message_id, "pause"))
    _tell(receipt, "paused", as_json=as_json)


@app.command("resume")
def resume(message_id: IdArgument, tenant: TenantOption = None, as_json: JsonOption = False) -> None:
    """Let it go on, each delivery in its old place in its mailbox.

    [bold]Example[/bold]

      postroom bulk resume notice-7 -t acme
    """
    receipt = run(_change(tenant, message_id, "resume"))
    _tell(receipt, "goes on" if receipt.open else "has ended", as_json=as_json)


@app.command("cancel")
def cancel(message_id: IdArgument, tenant: TenantOption = None, as_json: JsonOption = False) -> None:
    """Take back what has not begun. Exit code 0: all of it, 8: some came too late, 3: all did.

    [bold]Example[/bold]

      postroom bulk cancel notice-7 -t acme
    """

    async def work() -> TakenBack:
        async with session() as opened:
            context = await opened.tenant(tenant)
            return await opened.producer(context.tenant).bulk.cancel(message_id)

    taken_back = run(work())
    if as_json:
        print_json({"message_id": message_id, "cancelled": taken_back.cancelled, "too_late": taken_back.late})
    else:
        late = f"; too late for {counts(taken_back.late)}" if taken_back.late else ""
        print(f"{taken_back.cancelled:,} cancelled{late}")
    if taken_back.late:
        raise typer.Exit(Code.PARTIAL if taken_back.cancelled else Code.REFUSED)


def finish(receipt: Receipt, *, as_json: bool) -> None:
    """Says how a watched message ended, and ends the command with its code."""
    if as_json:
        print_json(document(receipt))
    else:
        line = state_text(receipt.state) if not receipt.ends else Text(counts(receipt.ends))
        out().print(line)
        failed = code_of(receipt) is not Code.OK
        if failed and receipt.detail:
            err.print(safe(receipt.detail), style="dim", markup=False, soft_wrap=True)
        each = f"; `postroom bulk results {receipt.message_id}` tells of each" if failed and receipt.recipients else ""
        err.print(f"{receipt.message_id}{each}", style="dim", markup=False, soft_wrap=True)
    raise typer.Exit(code_of(receipt))


def document(receipt: Receipt) -> dict[str, Any]:
    """A message to many for machines: its counts, without its deliveries."""
    return receipt.model_dump(mode="json", exclude={"deliveries"})


async def _change(tenant: str | None, message_id: str, what: str) -> Receipt:
    async with session() as opened:
        context = await opened.tenant(tenant)
        client: TenantClient = opened.producer(context.tenant)
        return await (client.bulk.pause(message_id) if what == "pause" else client.bulk.resume(message_id))


def _tell(receipt: Receipt, said: str, *, as_json: bool) -> None:
    if as_json:
        print_json(document(receipt))
    else:
        print(f"{receipt.message_id} {said}: {receipt.open:,} of {receipt.recipients:,} open")


def _describe(shown: Shown) -> None:
    receipt, console = shown.receipt, out()
    rows: list[tuple[str, str | Text]] = [
        ("message", Text(receipt.message_id, "bold")),
        ("to", in_short(shown.envelope.to) if shown.envelope else "(cannot be read)"),
        ("state", BulkRow(receipt, shown.now_ms).status),
        ("accepted", f"{local_iso(receipt.accepted_at_ms)}  ({relative(receipt.accepted_at_ms, shown.now_ms)})"),
        ("recipients", f"{receipt.recipients:,}, {receipt.open:,} open"),
    ]
    if shown.left_seconds is not None:
        rows.append(("time left", f"about {span(shown.left_seconds)} at the rate so far"))
    console.print(pairs(rows))
    if shown.now:
        console.print()
        told = [
            (f"{number:,}", Text.assemble(state_text(state), f"  {in_words(state, cause)}"))
            for (state, cause), number in shown.now.most_common()
        ]
        console.print(pairs(told))
