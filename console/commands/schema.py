"""`postroom schema`: what is on the wire, as JSON Schema."""
# ruff: noqa: FBT002  # typer gives options by name

from typing import Annotated

import typer

from console.commands.options import JsonOption
from console.output import print_json
from schemas.envelope import Envelope
from schemas.receipt import Receipt

HELP = """Print the JSON Schema of an envelope: what stands in the `message` field of a stream's entry.

[bold]Examples[/bold]

  postroom schema > envelope.schema.json

  postroom schema --receipt
"""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("schema", help=HELP, rich_help_panel="Look")(schema)


def schema(
    receipt: Annotated[bool, typer.Option("--receipt", help="The schema of a receipt instead.")] = False,
    as_json: JsonOption = False,  # noqa: ARG001  # it is JSON in any case
) -> None:
    print_json(Receipt.model_json_schema() if receipt else Envelope.model_json_schema())
