"""`postroom cancel`: takes a message back, where no turn of it has begun."""
# ruff: noqa: FBT002  # typer gives options by name

from typing import Annotated

import typer

from console.commands.options import JsonOption, TenantOption
from console.output import print_json, safe
from console.session import run, session
from schemas.receipt import Receipt

HELP = """Take a message back. It either is cancelled, or came too late (exit code 3); never both.

[bold]Example[/bold]

  postroom cancel 01M7YF37W6VF26FW3DNHKT7TKR -t acme
"""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("cancel", help=HELP, rich_help_panel="Use")(cancel)


def cancel(
    message_id: Annotated[str, typer.Argument(metavar="ID", help="The message's id.", show_default=False)],
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    receipt = run(_cancel(tenant, message_id))
    if as_json:
        print_json(receipt.model_dump(mode="json"))
    else:
        print(f"{safe(receipt.message_id)} {receipt.state}")


async def _cancel(tenant: str | None, message_id: str) -> Receipt:
    async with session() as opened:
        context = await opened.tenant(tenant)
        client = opened.producer(context.tenant)
        try:
            # What does not look like an id is unknown, too.
            await client.receipt(message_id)
            return await client.cancel(message_id)
        finally:
            await client.close()
