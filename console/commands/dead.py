"""`postroom dead`: what could not be delivered, and what becomes of it."""
# ruff: noqa: FBT001, FBT002, PLR0917  # typer gives options by name

import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from console.commands.options import FormOption, JsonOption, TenantOption, duration, form_of
from console.exits import Code
from console.letter import raw_document, show_letter
from console.output import Column, Form, Listing, err, print_json, state_text
from console.session import Session, run, session
from console.times import relative, span
from console.words import in_words
from schemas.context import Context
from schemas.delivery import Cause, State
from schemas.envelope import Envelope
from workers.broker import agenda
from workers.bus import listing
from workers.bus.letters import Addressed, Wanted, read_letter, read_letters
from workers.errors import NotFoundError, RefusedError

app = typer.Typer(no_args_is_help=True, help="Dead letters: look at them, redrive them, or discard them.")

ASK_PAST = 100
NOTE_EVERY = 100
WORDS = {
    "redriven": "put back",
    "discarded": "given up",
    "gone": "gone already: somebody else was here",
    "expired": "expired meanwhile; --ttl 1h gives them new time",
    "full": "not put back: the tenant's bytes are used up; run it again when some of its messages have ended",
    "conflict": "not put back: the id is another message's now, or the ledger disagrees (`postroom audit`)",
}
DONE = {"redriven", "discarded", "gone"}

IdOption = Annotated[
    list[str] | None, typer.Option("--id", help="This one: a delivery's, message's or letter's id. Repeatable.")
]
AgentOption = Annotated[str | None, typer.Option("--agent", "-a", help="Those for this agent, by name or id.")]
CauseOption = Annotated[Cause | None, typer.Option("--cause", "-c", help="Those with this cause.")]
OlderOption = Annotated[
    float | None, typer.Option("--older-than", parser=duration, metavar="TIME", help="Those older than 10m, 2d.")
]
EveryOption = Annotated[bool, typer.Option("--all", help="Every dead letter of the tenant.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Say which, and change nothing.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help=f"Do not ask, however many (past {ASK_PAST} it asks).")]


def register(parent: typer.Typer) -> None:
    """Adds the commands."""
    parent.add_typer(app, name="dead", rich_help_panel="Operate")


@dataclass(frozen=True, slots=True)
class Group:
    """The dead letters of one cause."""

    cause: Cause
    letters: Sequence[Addressed]
    now_ms: int

    @property
    def oldest_at_ms(self) -> int:
        """When the first of them died."""
        return min(one.letter.at_ms for one in self.letters)

    @property
    def agents(self) -> int:
        """For how many agents they were."""
        return len({one.agent for one in self.letters if one.agent})


@dataclass(frozen=True, slots=True)
class LetterRow:
    """One dead letter of a listing."""

    one: Addressed
    now_ms: int


GROUPS: Listing[Group] = Listing(
    columns=(
        Column("cause", lambda row: row.cause.value),
        Column("letters", lambda row: str(len(row.letters)), right=True),
        Column("agents", lambda row: str(row.agents), right=True),
        Column("oldest", lambda row: relative(row.oldest_at_ms, row.now_ms)),
        Column("because", lambda row: in_words(row.letters[0].letter.state, row.cause)),
    ),
    name=lambda row: row.cause.value,
    document=lambda row: {
        "cause": row.cause,
        "letters": len(row.letters),
        "agents": row.agents,
        "oldest_at_ms": row.oldest_at_ms,
    },
    nothing="no dead letters",
)

LETTERS: Listing[LetterRow] = Listing(
    columns=(
        Column("id", lambda row: row.one.id),
        Column("state", lambda row: state_text(row.one.letter.state)),
        Column("cause", lambda row: row.one.letter.cause.value),
        Column("agent", lambda row: row.one.agent_name or row.one.agent or ""),
        Column("attempts", lambda row: str(row.one.letter.attempts), right=True),
        Column("age", lambda row: span((row.now_ms - row.one.letter.at_ms) / 1000)),
        Column("detail", lambda row: row.one.letter.detail, wide=True),
        Column("letter", lambda row: row.one.letter.entry_id, wide=True),
    ),
    name=lambda row: row.one.id,
    document=lambda row: _document(row.one),
    nothing="no dead letters",
)


@app.command("list")
def list_(
    tenant: TenantOption = None,
    agent: AgentOption = None,
    cause: CauseOption = None,
    older_than: OlderOption = None,
    every: Annotated[bool, typer.Option("--all", help="Each letter, not only how many of each cause.")] = False,
    form: FormOption = Form.TABLE,
    as_json: JsonOption = False,
) -> None:
    """The tenant's dead letters, oldest first, by cause.

    [bold]Examples[/bold]

      postroom dead list -t acme

      postroom dead list -t acme --all --cause attempts -o wide
    """

    async def work() -> tuple[list[Addressed], int]:
        async with session() as opened:
            context = await opened.tenant(tenant)
            now_ms = await opened.now_ms()
            return await _chosen(opened, context, _wanted(None, agent, cause, older_than, now_ms)), now_ms

    found, now_ms = run(work())
    if every:
        LETTERS.show([LetterRow(one, now_ms) for one in found], form_of(form, as_json=as_json))
        return
    by_cause: defaultdict[Cause, list[Addressed]] = defaultdict(list)
    for one in found:
        by_cause[one.letter.cause].append(one)
    groups = [Group(one, letters, now_ms) for one, letters in by_cause.items()]
    GROUPS.show(sorted(groups, key=lambda group: -len(group.letters)), form_of(form, as_json=as_json))


@app.command("show")
def show(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Of the letter, its delivery or message.")],
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """One dead letter: why, after how many attempts, the last error as it was said, and the original message.

    [bold]Example[/bold]

      postroom dead show draft-1 -t acme
    """

    async def work() -> tuple[Addressed, Envelope | None, int]:
        async with session() as opened:
            context = await opened.tenant(tenant)
            one = await read_letter(context, opened.client, id_)
            envelope = None
            if one.letter.delivery_id is not None and one.letter.message_id is not None:
                envelope = (await listing.read_message(context, opened.client, one.letter.message_id)).envelope
            return one, envelope, await opened.now_ms()

    one, envelope, now_ms = run(work())
    if as_json:
        original = envelope.model_dump(mode="json", exclude_none=True) if envelope else None
        print_json({**_document(one), **raw_document(one.letter.raw), "envelope": original})
    else:
        show_letter(one, envelope, now_ms)


@app.command("redrive")
def redrive(
    tenant: TenantOption = None,
    ids: IdOption = None,
    agent: AgentOption = None,
    cause: CauseOption = None,
    older_than: OlderOption = None,
    every: EveryOption = False,
    ttl: Annotated[
        float | None, typer.Option(parser=duration, metavar="TIME", help="New time to expire in, counted from now.")
    ] = None,
    dry_run: DryOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put dead letters back: into their agents' mailboxes, in their order, under the same limits as any message.

    What is given narrows the choice: each letter that fits all of it. Stopped halfway, run it again: what was put back
    is no dead letter any more, and nothing is put back twice.

    [bold]Examples[/bold]

      postroom dead redrive -t acme --id draft-1

      postroom dead redrive -t acme --agent writer --cause attempts --dry-run

      postroom dead redrive -t acme --all --ttl 1h --yes
    """
    ttl_ms = round(ttl * 1000) if ttl else None

    async def one_letter(opened: Session, context: Context, one: Addressed) -> tuple[str, int]:
        scripts = opened.resources.scripts
        answer = await scripts.redrive(context, entry_id=one.letter.entry_id, ttl_ms=ttl_ms)
        return answer.status, answer.next_look_ms

    _act("redrive", one_letter, tenant, _choice(ids, agent, cause, older_than, every), dry_run, yes, as_json)


@app.command("discard")
def discard(
    tenant: TenantOption = None,
    ids: IdOption = None,
    agent: AgentOption = None,
    cause: CauseOption = None,
    older_than: OlderOption = None,
    every: EveryOption = False,
    dry_run: DryOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Give dead letters up. Their ends stand; their messages are purged in time like any that have ended.

    [bold]Example[/bold]

      postroom dead discard -t acme --cause unknown_agent --older-than 7d
    """

    async def one_letter(opened: Session, context: Context, one: Addressed) -> tuple[str, int]:
        return await opened.resources.scripts.discard(context, entry_id=one.letter.entry_id), 0

    _act("discard", one_letter, tenant, _choice(ids, agent, cause, older_than, every), dry_run, yes, as_json)


OneLetter = Callable[[Session, Context, Addressed], Awaitable[tuple[str, int]]]
Choice = Callable[[int], Wanted]


def _choice(
    ids: list[str] | None, agent: str | None, cause: Cause | None, older_than: float | None, every: bool
) -> Choice:
    narrowed = bool(ids or agent or cause or older_than)
    if narrowed == every:
        raise typer.BadParameter("give --all, or what to choose by: --id, --agent, --cause, --older-than")
    return lambda now_ms: _wanted(ids, agent, cause, older_than, now_ms)


def _wanted(
    ids: list[str] | None, agent: str | None, cause: Cause | None, older_than: float | None, now_ms: int
) -> Wanted:
    before_ms = None if older_than is None else now_ms - round(older_than * 1000)
    return Wanted(frozenset(ids or ()), agent, cause, before_ms)


async def _chosen(opened: Session, context: Context, wanted: Wanted) -> list[Addressed]:
    names = {agent.id: agent.name for agent in await listing.known_agents(context, opened.client)}
    return [one async for one in read_letters(context, opened.client, names=names.get) if wanted.fits(one)]


def _act(
    what: str, one_letter: OneLetter, tenant: str | None, choice: Choice, dry_run: bool, yes: bool, as_json: bool
) -> None:
    async def work() -> tuple[list[Addressed], list[str], int]:
        async with session() as opened:
            context = await opened.tenant(tenant)
            now_ms = await opened.now_ms()
            wanted = choice(now_ms)
            found = await _chosen(opened, context, wanted)
            if wanted.ids and not found:
                named = ", ".join(sorted(wanted.ids))
                raise NotFoundError(f"there is no such dead letter in tenant {context.tenant!r}: {named}")
            if dry_run:
                return found, [], now_ms
            _confirm(what, found, yes=yes)
            return found, await _each(what, one_letter, opened, context, found), now_ms

    found, results, now_ms = run(work())
    if dry_run:
        _preview(what, found, now_ms, as_json=as_json)
    else:
        _report(found, results, as_json=as_json)


def _confirm(what: str, found: Sequence[Addressed], *, yes: bool) -> None:
    if yes or len(found) <= ASK_PAST:
        return
    if not sys.stdin.isatty():
        raise RefusedError(f"these are {len(found)} dead letters: give --yes to {what} them, or --dry-run to look")
    if not typer.confirm(f"{what} {len(found)} dead letters?", err=True):
        raise RefusedError(f"{len(found)} dead letters were left as they are")


async def _each(
    what: str, one_letter: OneLetter, opened: Session, context: Context, found: Sequence[Addressed]
) -> list[str]:
    """One after the other, in letter order: so each agent's stay in theirs. Stops where there is no room for one."""
    results: list[str] = []
    bar = Progress(
        TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=err, transient=True
    )
    look_ms = 0
    with bar:
        task = bar.add_task(what, total=len(found), visible=err.is_terminal and len(found) > 1)
        for one in found:
            status, look = await one_letter(opened, context, one)
            look_ms = min(look, look_ms or look) if look else look_ms
            results.append(status)
            bar.advance(task)
            if len(results) % NOTE_EVERY == 0 or len(results) == len(found) or status == "full":
                await agenda.note(context, opened.client, look_ms)
                look_ms = 0
            if status == "full":
                break
    return results


def _preview(what: str, found: Sequence[Addressed], now_ms: int, *, as_json: bool) -> None:
    if as_json:
        print_json({"dry_run": True, "count": len(found), "letters": [_document(one) for one in found]})
        return
    LETTERS.show([LetterRow(one, now_ms) for one in found], Form.TABLE)
    unknown = sum(one.letter.state is State.UNKNOWN for one in found)
    err.print(f"{what} would change {len(found)} dead letters; nothing was changed", style="dim")
    if what == "redrive" and unknown:
        err.print(f"{unknown} ended as unknown: the agent may have got them, and would get them again", style="yellow")


def _report(found: Sequence[Addressed], results: Sequence[str], *, as_json: bool) -> None:
    counts = Counter(results)
    left = len(found) - len(results)
    if as_json:
        rows = [{"id": one.id, "result": result} for one, result in zip(found, results, strict=False)]
        print_json({"count": len(found), **counts, "not_tried": left, "letters": rows})
    elif not found:
        err.print("no such dead letters", style="dim")
    else:
        for status, number in counts.items():
            print(f"{number} {WORDS[status]}")
        if left:
            print(f"{left} not tried")
    if left or set(counts) - DONE:
        raise typer.Exit(Code.FAILED)


def _document(one: Addressed) -> dict[str, Any]:
    return {
        "id": one.id,
        **one.letter.model_dump(mode="json", exclude={"raw"}),
        "agent": one.agent,
        "agent_name": one.agent_name,
    }
