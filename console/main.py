"""The `postroom` command: what a person types, and what it ends with."""

import sys

import typer

from console.commands import (
    agent,
    audit,
    bulk,
    cancel,
    dead,
    demo,
    describe,
    doctor,
    get,
    history,
    messages,
    replies,
    sandbox,
    schema,
    send,
    services,
    team,
    tenant,
)
from console.exits import EPILOG, is_expected, report

app = typer.Typer(
    name="postroom",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
    help=(
        "Delivery for fleets of Letta agents.\n\n"
        "[bold]postroom demo[/bold] shows it; [bold]postroom up[/bold] runs it; "
        "[bold]postroom send[/bold] uses it."
    ),
)
for group in (
    demo,
    services,
    send,
    bulk,
    get,
    replies,
    messages,
    history,
    describe,
    cancel,
    tenant,
    team,
    agent,
    dead,
    audit,
    doctor,
    schema,
    sandbox,
):
    group.register(app)


def main() -> None:
    """Runs one command. Expected errors become a sentence and an exit code; a bug of ours keeps its traceback."""
    try:
        app(prog_name="postroom")
    except Exception as error:
        if not is_expected(error):
            raise
        as_json = "--json" in sys.argv or "-ojson" in sys.argv or ("-o" in sys.argv and "json" in sys.argv)
        sys.exit(report(error, as_json=as_json))
