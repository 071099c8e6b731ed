"""`postroom schema`: what is on the wire, as JSON Schema."""
# ruff: noqa: FBT002  # typer gives options by name

from typing import Annotated

import typer
from pydantic import BaseModel

from console.commands.options import JsonOption
from console.output import print_json
from schemas.envelope import Envelope
from schemas.receipt import Receipt
from schemas.reply import Reply

HELP = """Print the JSON Schema of an envelope: what stands in the `message` field of a stream's entry.

[bold]Examples[/bold]

  postroom schema > envelope.schema.json

  postroom schema --receipt

  postroom schema --reply     (what stands on the stream or queue of a message's reply_to)
"""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("schema", help=HELP, rich_help_panel="Look")(schema)


def schema(
    receipt: Annotated[bool, typer.Option("--receipt", help="The schema of a receipt instead.")] = False,
    reply: Annotated[bool, typer.Option("--reply", help="The schema of what a reply's reader gets instead.")] = False,
    as_json: JsonOption = False,  # noqa: ARG001  # it is JSON in any case
) -> None:
    if receipt and reply:
        raise typer.BadParameter("give --receipt or --reply, not both")
    shown: type[BaseModel] = Receipt if receipt else Reply if reply else Envelope
    print_json(shown.model_json_schema())
