"""`postroom doctor`: is this installation well, and which promises hold on it?"""
# ruff: noqa: FBT002  # typer gives options by name

import typer
from rich.table import Table
from rich.text import Text

from console.checks import Check, Level, parked_checks, process_checks, redis_checks, settings_checks
from console.checks_letta import LettaChecks
from console.commands.options import JsonOption
from console.exits import Code
from console.output import out, print_json, safe
from console.session import run, session

SIGNS: dict[Level, Text] = {
    Level.OK: Text(" ok ", "green"),
    Level.WARN: Text("warn", "bold yellow"),
    Level.FAIL: Text("FAIL", "bold red"),
}
HELP = """Look at Redis, Letta, the clocks and the services, and say which promises hold.

Exit code 0 when all is well or only warned of, 1 when something fails.

[bold]Examples[/bold]

  postroom doctor

  postroom doctor --json
"""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("doctor", help=HELP, rich_help_panel="Operate")(doctor)


def doctor(as_json: JsonOption = False) -> None:
    checks = run(_look())
    failed = any(check.level is Level.FAIL for check in checks)
    if as_json:
        print_json({"ok": not failed, "checks": [check.document() for check in checks]})
    else:
        _show(checks)
    if failed:
        raise typer.Exit(Code.FAILED)


async def _look() -> list[Check]:
    async with session() as opened:
        checks = [check async for check in redis_checks(opened)]
        if checks[0].level is Level.FAIL and len(checks) == 1:
            return checks
        letta = LettaChecks(opened)
        checks += [check async for check in letta.run()]
        checks += [check async for check in process_checks(opened)]
        checks += [check async for check in parked_checks(opened)]
        simulated = letta.abilities.simulated if letta.abilities else None
        return [*checks, *settings_checks(opened.settings, simulated=simulated)]


def _show(checks: list[Check]) -> None:
    console = out()
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for check in checks:
        table.add_row(SIGNS[check.level], safe(check.name), Text(safe(check.found)))
        if check.do:
            table.add_row("", "", Text(f"→ {safe(check.do)}", style="yellow"))
    console.print(table)
    counts = {level: sum(check.level is level for check in checks) for level in Level}
    console.print(f"\n{counts[Level.OK]} ok, {counts[Level.WARN]} to look at, {counts[Level.FAIL]} failed")
