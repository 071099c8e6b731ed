"""`python -m bench`: runs the trials and prints the table. `make bench` is all of them."""

import json
import os
import platform
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import typer

from bench.arena import Arena, BenchError, arena
from bench.measure import Row, tell
from bench.show import show
from bench.trials import backlog, bulk, calls, latency, no_op, publish, scaling, services, space
from console.exits import Code, is_expected, report
from console.output import out
from console.running import run_service

WAITING = 100_000
Trial = Callable[[Arena], Awaitable[list[Row]]]

ALL: Mapping[str, Trial] = {
    "no-op": no_op.run,
    "calls": calls.run,
    "latency": latency.run,
    "publish": publish.run,
    "bulk": bulk.run,
    "space": space.run,
    "services": services.run,
    "backlog": partial(backlog.run, waiting=WAITING),
    "scaling": scaling.run,
}
"""Every trial by the name that `--only` takes, in the order of the table."""

HELP = f"""Measure what Postroom costs, beside what one would use instead, on this machine.

Starts a private Redis, a stub of a Letta server and every service in processes of its own, and ends them. Progress
goes to stderr, the table to stdout; docs/performance.md says how to read it.

Trials: {", ".join(ALL)}.

Examples:

  python -m bench

  python -m bench --only no-op --only latency

  python -m bench --only backlog --waiting 1000000

  python -m bench --json > figures.json

Exit codes: 0 measured, whether or not the aims are met · 1 a service ended or the audit found something: the figures
are worthless · 2 wrong usage · 78 there is no Redis to start · 130 interrupted.
"""


def main(
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="This trial; may be given more than once.")
    ] = None,
    waiting: Annotated[
        int, typer.Option(min=10_000, max=10_000_000, help="The larger backlog of the trial `backlog`.")
    ] = WAITING,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document for machines.")] = False,  # noqa: FBT002  # typer gives it by name
) -> None:
    """Runs the trials."""
    unknown = [name for name in only or () if name not in ALL]
    if unknown:
        raise typer.BadParameter(f"there is no trial {unknown[0]!r}: one of {', '.join(ALL)}", param_hint="--only")
    # An embedded folder's .env is another installation's: what is measured are the defaults.
    for name in [*os.environ]:
        if name.startswith(("POSTROOM_", "LETTA_", "OTEL_")):
            del os.environ[name]
    trials: dict[str, Trial] = {**ALL, "backlog": partial(backlog.run, waiting=waiting)}
    try:
        code = run_service(_run({name: trials[name] for name in only or ALL}, as_json=as_json))
    except KeyboardInterrupt:
        code = Code.INTERRUPTED
    raise typer.Exit(code)


async def _run(trials: Mapping[str, Trial], *, as_json: bool) -> Code:
    began = time.monotonic()
    rows: list[Row] = []
    try:
        async with arena() as place:
            for trial in trials.values():
                rows += await trial(place)
    except BenchError as error:
        tell(f"error: {error}")
        return Code.FAILED
    except Exception as error:
        if not is_expected(error):
            raise
        return report(error, as_json=as_json)
    machine = _machine(time.monotonic() - began)
    if as_json:
        print(json.dumps({"machine": machine, "rows": [row.document() for row in rows]}, indent=2))
    else:
        console = out()
        show(rows, console)
        console.print(f"\n{_said(machine)}")
    return Code.OK


def _machine(seconds: float) -> dict[str, Any]:
    """What the figures were taken on; a load far above the number of cores says that others used it, too."""
    return {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[1], 1),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "seconds": round(seconds),
    }


def _said(machine: Mapping[str, Any]) -> str:
    return (
        f"{machine['cores']} cores, load {machine['load']} over the last five minutes, {machine['system']}, "
        f"Python {machine['python']}; {machine['seconds']} s in all; the audit found nothing."
    )


def command(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=HELP, context_settings={"help_option_names": ["-h", "--help"]})(main)
    app(args=list(arguments) if arguments is not None else None, prog_name="python -m bench")


if __name__ == "__main__":
    command()
