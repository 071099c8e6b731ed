"""`postroom up` and `postroom serve ...`: the long-running services."""
# ruff: noqa: FBT002  # typer gives options by name

from typing import Annotated

import typer

from console import up as running
from console.commands.options import JsonOption
from console.fleet import serve_fleet as run_fleet
from console.running import run_service
from workers.broker.rules import Pool

serve = typer.Typer(no_args_is_help=True, help="Run one service in this process (the Procfile's names).")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("up", help=UP, rich_help_panel="Run")(up)
    app.add_typer(serve, name="serve", rich_help_panel="Run")


UP = """Run all services in the foreground: dispatcher and pools, on Redis and Letta.

Where POSTROOM_REDIS_URL is not set, a private Redis is started and keeps its data in .postroom; where
LETTA_BASE_URL is not set, a sandbox Letta with simulated agents. Ctrl-C stops: running turns finish first.

[bold]Examples[/bold]

  postroom up

  POSTROOM_REDIS_URL=redis://db:6379/0 LETTA_BASE_URL=http://localhost:8283 postroom up
"""


def up(as_json: JsonOption = False) -> None:
    run_service(running.up(as_json=as_json))


@serve.command("dispatcher")
def serve_dispatcher(as_json: JsonOption = False) -> None:
    """Move messages from the tenants' streams into mailboxes. Any number may run.

    Waits up to 30 s for `postroom serve local` where no addresses are set.

    [bold]Example[/bold]

      postroom serve dispatcher
    """
    run_service(running.serve_dispatcher(as_json=as_json))


@serve.command("pool")
def serve_pool(
    pools: Annotated[
        list[Pool] | None, typer.Argument(help="Which pools; left out: POSTROOM_POOLS.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Deliver: take messages from the mailboxes and give the agents their turns. Any number may run.

    Waits up to 30 s for `postroom serve local` where no addresses are set.

    [bold]Examples[/bold]

      postroom serve pool

      postroom serve pool express standard
    """
    run_service(running.serve_pools(pools or [], as_json=as_json))


@serve.command("fleet")
def serve_fleet(
    dispatchers: Annotated[int, typer.Option(min=0, max=64, help="How many dispatcher processes.")] = 1,
    pools: Annotated[int, typer.Option(min=0, max=64, help="How many pool processes, each with POSTROOM_POOLS.")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Run dispatchers and pools as child processes of this one, which replaces those that die.

    What a dead child held is free again within two seconds: its calls are joined again, not sent again. A process
    that nobody waits for is missed only after its leases of 15 s. One more process stands by. Ctrl-C stops: running
    turns finish first. Waits up to 30 s for `postroom serve local` where no addresses are set.

    [bold]Examples[/bold]

      postroom serve fleet

      postroom serve fleet --dispatchers 2 --pools 4
    """
    if not dispatchers + pools:
        raise typer.BadParameter("nothing to run: give --dispatchers or --pools at least one")
    run_service(run_fleet(dispatchers=dispatchers, pools=pools, as_json=as_json))


@serve.command("local")
def serve_local(as_json: JsonOption = False) -> None:
    """Run only the embedded parts: a private Redis and the sandbox Letta, each where no address is set.

    [bold]Example[/bold]

      postroom serve local
    """
    run_service(running.serve_local(as_json=as_json))
