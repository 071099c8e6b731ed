"""docs/faults.md: the last full table, with the command, the seed, and what it was measured on."""

import os
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.catalogue import ELSEWHERE
from tests.chaos.table import Row, markdown
from workers.failpoints import ALLOWED, VARIABLE, Point

HEAD = """# Faults: what happens when things break

Written by `{command}`; do not edit it by hand. Every row breaks real processes: a Redis server with AOF, dispatchers
and pools as the Procfile starts them, and a sandbox Letta (simulated agents) that writes down every request and every
turn. Two TCP proxies stand between them. After each fault everything is counted.

- *lost*: accepted, and without exactly one recorded end. *doubled*: messages whose agent had a second turn, the first
  not being reported as failed. *extra calls*: requests for a turn past the first of a message.
- *recovery*: from the blow, or from the end of the outage, until each message that was running then was in flight
  again (or over): median, 95th percentile, longest. The promise: 20 s for 95 of 100, 30 s at most.
- Beside that, a row holds only if the messages of each agent began in the order in which they were published, no lease
  is left, no key stands outside the tenants' own, and `postroom audit` finds nothing.
- *N* is the number of messages and the kind of server: `joins` (can be asked for a call again by its otid), `runs`
  (lists its runs), `plain` (answers, and tells nothing else).

Measured on {cores} cores shared with other work (load {load}): upper bounds, not a benchmark. {seconds}.

"""
POINTS = """
## Fail-points

`{variable}=<point>:kill` ends a process as by kill -9 where it comes by that point, `:stop` freezes it until SIGCONT,
and `@3` behind it means the third time. They are for tests: a process that is not told `{allowed}=1` as well refuses to
start. The points, in the order in which a message comes by: {points}.
"""


def write(path: Path, rows: Sequence[Row], command: str, seconds: float, left: Sequence[str]) -> None:
    """Writes the file."""
    cores, load = os.cpu_count(), f"{os.getloadavg()[1]:.0f}"
    took = f"It took {seconds / 60:.0f} minutes"
    parts = [HEAD.format(command=command, cores=cores, load=load, seconds=took), markdown(rows), ""]
    parts += [f"\n## {row.name}: waits over time\n\n```\n{row.plot}\n```" for row in rows if row.plot]
    failed = [row for row in rows if not row.holds]
    said = [f"- {row.name}: {'; '.join(row.problems)}" for row in failed] or ["Every row holds."]
    said += [f"- Not tried in this run, which was cut: {', '.join(left)}."] if left else []
    parts += ["\n## What does not hold\n", *said]
    parts += ["\n## Faults that tests of their own hold\n"]
    parts += [f"- {name}: {what} (`{where}`)" for name, (what, where) in ELSEWHERE.items()]
    parts.append(POINTS.format(variable=VARIABLE, allowed=ALLOWED, points=", ".join(f"`{one}`" for one in Point)))
    path.write_text("\n".join(parts))
