"""`postroom tenant delete`: a tenant goes, whole."""
# ruff: noqa: FBT002  # typer gives options by name

import sys
from typing import Annotated, Any

import typer
from rich.text import Text

from console.commands.options import JsonOption, duration
from console.output import err, out, pairs, print_json
from console.session import Session, run, session
from console.times import clock_time, size_text
from schemas.context import Context
from schemas.delivery import State
from schemas.ids import is_tenant_id
from workers.broker import keys
from workers.bus import listing
from workers.directory.removal import POLL_SECONDS, Phase, Progress, Remover
from workers.errors import NotFoundError, RefusedError

WAIT_SECONDS = 60.0

Name = Annotated[str, typer.Argument(metavar="NAME", help="The tenant.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Adds the command to `postroom tenant`."""
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
    """Delete a tenant whole: its messages, dead letters, events, limits. There is no way back.

    It is suspended, its running turns end or are cut (their receipts are lost with the rest), then it is marked: from
    the mark on no call is made for it, whoever publishes is told that there is no such tenant, and within a minute no
    key of it is left. Stopped before the mark, it stays suspended; after it, any dispatcher goes on, or the same
    command again. Agents on the Letta server are not touched.

    [bold]Examples[/bold]

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
