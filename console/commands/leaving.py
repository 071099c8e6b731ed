"""`postroom tenant export` and `delete`: a tenant goes, whole."""
# ruff: noqa: FBT002  # typer gives options by name

import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.text import Text

from console.commands.options import JsonOption, duration
from console.output import err, out, pairs, print_json
from console.session import Session, run, session
from console.times import clock_time, size_text
from schemas.context import Context
from schemas.delivery import State
from schemas.export import End, Line
from schemas.ids import is_tenant_id
from workers.broker import keys
from workers.bus import listing
from workers.bus.export import Export
from workers.directory.removal import POLL_SECONDS, Phase, Progress, Remover
from workers.errors import NotFoundError, RefusedError

WAIT_SECONDS = 60.0
TELL_EVERY = 500
STDOUT = "-"

Name = Annotated[str, typer.Argument(metavar="NAME", help="The tenant.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Adds the commands to `postroom tenant`."""
    app.command("export")(export)
    app.command("delete")(delete)


def delete(
    name: Name,
    confirm: Annotated[
        str | None, typer.Option("--confirm", metavar="NAME", help="The tenant's name again, instead of typing it.")
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(
            parser=duration,
            metavar="TIME",
            help="How long running turns may go on before they are cut; 1m if left out.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a tenant whole: its messages, dead letters, events, limits. There is no way back; export it first.

    It is suspended, its running turns end or are cut (their receipts are lost with the rest), then it is marked: from
    the mark on no call is made for it, whoever publishes is told that there is no such tenant, and within a minute no
    key of it is left. Stopped before the mark, it stays suspended; after it, any dispatcher goes on, or the same
    command again. Agents on the Letta server are not touched.

    [bold]Examples[/bold]

      postroom tenant export acme --out acme.jsonl

      postroom tenant delete acme

      postroom tenant delete acme --confirm acme --wait 5m --json
    """

    async def work() -> tuple[dict[str, int], Progress]:
        async with session() as opened:
            return await _delete(opened, name, confirm, WAIT_SECONDS if wait is None else wait)

    lost, progress = run(work())
    if as_json:
        print_json({"tenant": name, "deleted": True, "marked_at_ms": progress.marked_at_ms or None, "lost": lost})
    else:
        at = f"; no call since {clock_time(progress.marked_at_ms)}" if progress.marked_at_ms else ""
        out().print(f"tenant {name} is deleted{at}")


def export(
    name: Name,
    target: Annotated[str, typer.Option("--out", metavar="FILE", help="Where to; - is stdout.")] = "-",
    content: Annotated[
        bool, typer.Option("--content/--no-content", help="With what people and agents wrote, or without.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Write a tenant out as JSON lines: limits, teams, agents, messages with receipts, dead letters, events, replies.

    The first line is a header with the version; the last, of kind "end", has the counts: without it the export was cut.
    A file appears under its name only when it is whole. While work goes on the lines are no picture of one moment:
    suspend the tenant first where that matters. With --out -, the summary (--json, too) goes to stderr.

    [bold]Examples[/bold]

      postroom tenant export acme --out acme.jsonl

      postroom tenant export acme --no-content | grep '"kind":"letter"'
    """

    async def work() -> dict[str, int]:
        async with session() as opened:
            tenant = await opened.tenants.show(opened.operator, name)
            lines = Export(opened.operator.for_tenant(name), opened.client, content=content)
            with _target(target) as file:
                return await _write(lines.lines(tenant, at_ms=await opened.now_ms()), file)

    counts = run(work())
    if as_json:
        document = {"tenant": name, "out": target, "counts": counts}
        print(json.dumps(document), file=sys.stderr if target == STDOUT else sys.stdout)
    else:
        what = ", ".join(f"{number} {kind}" for kind, number in counts.items()) or "nothing but its limits"
        err.print(f"tenant {name} is exported: {what}", markup=False)


async def _write(lines: AsyncIterator[Line], file: TextIO) -> dict[str, int]:
    counts: dict[str, int] = {}
    with err.status("exporting") as status:
        number = 0
        async for line in lines:
            file.write(line.model_dump_json() + "\n")
            number += 1
            if number % TELL_EVERY == 0:
                status.update(f"exporting: {number} lines")
            if isinstance(line, End):
                counts = line.counts
    return counts


@contextmanager
def _target(target: str) -> Iterator[TextIO]:
    """Stdout, or a file that gets its name when it is whole, readable by its owner alone."""
    if target == STDOUT:
        yield sys.stdout
        return
    path = Path(target)
    try:
        descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise RefusedError(f"cannot be written: {error.strerror}", where=target) from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(part).replace(path)
    finally:
        Path(part).unlink(missing_ok=True)


async def _delete(opened: Session, name: str, confirm: str | None, wait: float) -> tuple[dict[str, int], Progress]:
    if not is_tenant_id(name):
        raise NotFoundError(f"there is no tenant {name!r}")
    context = opened.operator.for_tenant(name)
    remover = Remover(opened.client, opened.resources.scripts, opened.resources.clock)
    lost: dict[str, int] = {}
    # Asked for before, and cut: it was confirmed then.
    if not await remover.is_listed(context):
        await opened.tenants.show(opened.operator, name)
        lost = await _lost(opened, context)
        _confirm(name, lost, confirm)
        with err.status(f"{name} is suspended; its turns end") as status:
            async for running in remover.quiesce(opened.operator, name, wait_seconds=wait):
                status.update(f"{name} is suspended; turns that still run: {running}")
    return lost, await _to_the_end(opened, remover, context)


async def _to_the_end(opened: Session, remover: Remover, context: Context) -> Progress:
    mark, deleted, marked_at_ms = await remover.ask(context), 0, 0
    with err.status(f"{context.tenant} is marked; deleting") as status:
        while True:
            progress = await remover.advance(context, mark)
            deleted, marked_at_ms = deleted + progress.deleted, marked_at_ms or progress.marked_at_ms
            if progress.phase is Phase.KEPT:
                raise RefusedError("was resumed meanwhile; nothing was deleted", where=f"tenant {context.tenant!r}")
            if progress.phase is Phase.GONE and not await remover.is_listed(context):
                return Progress(Phase.GONE, marked_at_ms, deleted)
            status.update(f"{context.tenant} is marked; {deleted} keys deleted")
            await opened.resources.clock.sleep(POLL_SECONDS)


async def _lost(opened: Session, context: Context) -> dict[str, int]:
    counters, names = await listing.counters(context, opened.client), keys.of(context)
    return {
        **{state.value: counters.get(state, 0) for state in (State.ACCEPTED, State.WAITING, State.RUNNING)},
        "bytes": counters.get("bytes", 0),
        "messages": int(await opened.client.zcard(names.messages)),
        "dead_letters": int(await opened.client.xlen(names.dead)),
    }


def _confirm(name: str, lost: dict[str, int], confirm: str | None) -> None:
    if confirm is None:
        if not sys.stdin.isatty():
            raise RefusedError(f"give --confirm {name} to delete tenant {name} with all it has; nothing was deleted")
        err.print(Text(f"tenant {name} would be deleted, and with it:", "bold red"))
        err.print(pairs(_rows(lost)))
        confirm = typer.prompt("Type its name to delete it", err=True)
    if confirm != name:
        raise RefusedError(f"{confirm!r} is not {name!r}; nothing was deleted")


def _rows(lost: dict[str, Any]) -> list[tuple[str, str | Text]]:
    return [
        ("under way", f"{lost['accepted']} accepted, {lost['waiting']} waiting, {lost['running']} running"),
        ("content", f"{size_text(lost['bytes'])} not ended"),
        ("messages", f"{lost['messages']} with their receipts and replies"),
        ("dead letters", str(lost["dead_letters"])),
    ]
