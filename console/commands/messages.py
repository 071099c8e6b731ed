"""`postroom messages`: what readers outside do with messages that are over."""
# ruff: noqa: FBT002  # typer gives options by name

from typing import Annotated

import typer

from console.commands.options import JsonOption, TenantOption
from console.exits import Code
from console.output import print_json, safe
from console.session import run, session

DONE = {"acked", "already"}
WORDS = {
    "acked": "acked",
    "already": "acked before",
    "not_over": "not over yet; nothing was changed",
    "not_found": "there is no such message",
}

app = typer.Typer(no_args_is_help=True, help="Mark messages as read.")
ReaderOption = Annotated[
    str | None, typer.Option("--reader", metavar="NAME", help="Who has read them. Left out: you, as cli:USER.")
]


def register(parent: typer.Typer) -> None:
    """Adds the commands."""
    parent.add_typer(app, name="messages", rich_help_panel="Use")


@app.command("ack")
def ack(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Of messages that are over.", show_default=False)],
    reader: ReaderOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Mark messages that have come to their end as read by you, or by a named reader.

    It changes nothing about them, only what `get messages --unacked` leaves out, for each reader by itself. Acking
    again is safe; one that is redriven is unread again. It ends with 3 where none could be acked, with 1 where some
    could not. Entries of a reply stream are Redis' own business: XACK, XDEL.

    [bold]Examples[/bold]

      postroom messages ack 01M7YF37W6VF26FW3DNHKT7TKR -t acme

      postroom get messages -t acme --unacked --reader crm --state delivered -o name
    """
    results = run(_ack(tenant, ids, reader))
    if as_json:
        print_json([{"message_id": id_, "result": result} for id_, result in results.items()])
    else:
        for id_, result in results.items():
            print(f"{safe(id_)} {WORDS[result]}")
    refused = [result for result in results.values() if result not in DONE]
    if refused:
        whole = Code.NOT_FOUND if set(refused) == {"not_found"} else Code.REFUSED
        raise typer.Exit(whole if len(refused) == len(results) else Code.FAILED)


async def _ack(tenant: str | None, ids: list[str], reader: str | None) -> dict[str, str]:
    async with session() as opened:
        context = await opened.tenant(tenant)
        client = opened.producer(context.tenant)
        try:
            return await client.ack(*ids, reader=reader)
        finally:
            await client.close()
