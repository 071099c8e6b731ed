"""`postroom demo`: see it work."""
# ruff: noqa: FBT002  # typer gives options by name

from typing import Annotated

import typer

from console.commands.options import JsonOption
from console.demo.play import play
from console.exits import Code
from console.output import print_json
from console.running import run_service

HELP = """Show the main job live, within a minute, on a private Redis and SIMULATED agents.

It works in a folder of its own and touches nothing else, whatever is set. Exit code 0 when every message ended as
was told beforehand, 1 otherwise.

[bold]Examples[/bold]

  postroom demo

  postroom demo --json

  postroom demo --keep
"""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("demo", help=HELP, rich_help_panel="Run")(demo)


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder with Redis' data and the log.")] = False,
    as_json: JsonOption = False,
) -> None:
    played = run_service(play(silent=as_json, keep=keep))
    if as_json:
        print_json(played.document)
    if not played.as_expected:
        raise typer.Exit(Code.FAILED)
