"""`postroom sandbox`: the sandbox Letta alone, for trying a program against something that answers."""
# ruff: noqa: FBT002, PLR0917  # typer gives options by name

import json
from pathlib import Path
from typing import Annotated

import typer

from console.commands.options import JsonOption
from console.output import err
from console.parts import seed_with_lasting_ids
from console.running import run_service, signals
from console.sandbox.server import SandboxServer
from console.sandbox.world import Mode
from workers.errors import ConfigurationError

HELP = """Run the sandbox Letta alone: a server that letta-client talks to, with SIMULATED agents.

It keeps everything in memory. Modes: `joins` as a server with Redis, `runs` as one without, `plain` as one that
knows only the blocking call.

[bold]Examples[/bold]

  postroom sandbox --seed-demo

  postroom sandbox --port 0 --mode plain --turn-log turns.jsonl --json
"""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("sandbox", help=HELP, rich_help_panel="Run")(sandbox)


def sandbox(
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes any free one.")] = 8299,
    mode: Annotated[Mode, typer.Option(help="What kind of server to be.")] = Mode.JOINS,
    turn_log: Annotated[Path | None, typer.Option(help="Append one JSON line for each turn here.")] = None,
    seed_demo: Annotated[bool, typer.Option("--seed-demo", help="Start with the teams of acme and globex.")] = False,
    as_json: JsonOption = False,
) -> None:
    run_service(_serve(SandboxServer(mode, host=host, port=port, turn_log=turn_log), seed=seed_demo, as_json=as_json))


async def _serve(server: SandboxServer, *, seed: bool, as_json: bool) -> None:
    if seed:
        seed_with_lasting_ids(server.world)
    async with signals() as ending:
        try:
            await server.start()
        except OSError as error:
            raise ConfigurationError(f"cannot listen there: {error.strerror}; --port 0 takes any free port") from None
        try:
            if as_json:
                document = {"base_url": server.base_url, "mode": server.world.mode.value, "simulated": True}
                print(json.dumps(document), flush=True)
            else:
                print(f"LETTA_BASE_URL={server.base_url}", flush=True)
                err.print("The agents are SIMULATED: no language model. Ctrl-C stops.", style="bold yellow")
            await ending.asked.wait()
        finally:
            await server.stop()
