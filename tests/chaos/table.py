"""The table at the end: what was done, what it came to, and whether that is what is promised."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from tests.chaos.account import Account
from tests.chaos.scene import Fault, Scene

SHOWN = 3
HEAD = ("fault", "what was done", "N", "lost", "doubled", "extra calls", "p50", "p95", "max", "verdict")


@dataclass(frozen=True)
class Row:
    """One fault's."""

    name: str
    title: str
    what: str
    mode: str
    messages: int
    ends: dict[str, int]
    lost: int
    doubled: int
    extra_calls: int
    recovery_seconds: tuple[float, float, float] | None
    """p50, p95 and the longest; None: nothing had to recover."""
    struck: int
    """Messages that the recovery was measured on."""
    seconds: float
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    plot: str = ""

    @property
    def holds(self) -> bool:
        return not self.problems

    @property
    def verdict(self) -> str:
        return "holds" if self.holds else "DOES NOT HOLD: " + "; ".join(self.problems)

    @classmethod
    def of(cls, fault: Fault, scene: Scene, done: Account, what: str, seconds: float) -> Self:
        recovery = _percentiles(done.recovery_ms)
        return cls(
            name=fault.name,
            title=fault.title,
            what=what,
            mode=scene.rig.plan.mode,
            messages=done.accepted,
            ends=dict(done.ends),
            lost=len(done.lost),
            doubled=len(done.doubled),
            extra_calls=done.extra_calls,
            recovery_seconds=recovery,
            struck=len(done.recovery_ms),
            seconds=seconds,
            problems=tuple(_problems(fault, scene, done, recovery)),
            notes=_told(fault, scene, recovery),
            plot=scene.plot,
        )

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "holds": self.holds}


def _problems(fault: Fault, scene: Scene, done: Account, recovery: tuple[float, float, float] | None) -> list[str]:
    found = list(scene.broken)
    found += _too_many("lost", done.lost, fault.lost)
    found += _too_many("doubled", done.doubled, fault.doubled)
    found += _too_many("ended twice", done.ended_twice, 0)
    found += _too_many("out of order", done.disorder, 0)
    found += _too_many("left behind", done.left, 0)
    found += _too_many("never accepted", [f"{id_}: {why}" for id_, why in scene.load.refused.items()], 0)
    strange = {state: number for state, number in done.ends.items() if state not in scene.allowed_to_end}
    if strange and not done.lost:
        found.append(f"ended otherwise: {strange}")
    calls = fault.extra_calls[0 if scene.scale.quick else 1] if fault.extra_calls else None
    if calls is not None and done.extra_calls > calls:
        found.append(f"{done.extra_calls} extra calls, {calls} at most")
    bounds = _bounds(fault, scene)
    if recovery is not None and (recovery[1] > bounds[0] or recovery[2] > bounds[1]):
        found.append(f"recovered within {recovery[2]:.1f} s, {recovery[1]:.1f} s for 95 of 100: {_slow(bounds)}")
    return found


def _bounds(fault: Fault, scene: Scene) -> tuple[float, float]:
    """Seconds for 95 of 100, and for the last: in a quick run, which busy machines have, too, longer than promised."""
    factor = fault.busy_factor if scene.scale.quick else 1
    return factor * fault.p95_seconds, factor * fault.recovery_seconds


def _slow(bounds: tuple[float, float]) -> str:
    return f"{bounds[1]:g} s at most, {bounds[0]:g} s for 95 of 100"


def _told(fault: Fault, scene: Scene, recovery: tuple[float, float, float] | None) -> tuple[str, ...]:
    """The notes; among them whether it was slower than promised."""
    promised = (fault.p95_seconds, fault.recovery_seconds)
    if recovery is None or (recovery[1] <= promised[0] and recovery[2] <= promised[1]):
        return tuple(scene.notes)
    return (*scene.notes, f"SLOWER THAN PROMISED ({_slow(promised)})")


def _too_many(what: str, found: Sequence[str], most: int) -> list[str]:
    return [f"{len(found)} {what} ({'; '.join(found[:SHOWN])})"] if len(found) > most else []


def _percentiles(milliseconds: Sequence[int]) -> tuple[float, float, float] | None:
    if not milliseconds:
        return None
    ordered = sorted(one / 1000 for one in milliseconds)
    rank = max(0, round(0.95 * len(ordered)) - 1)
    return (statistics.median(ordered), ordered[rank], ordered[-1])


def markdown(rows: Sequence[Row]) -> str:
    """The table, for a file and for a terminal."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    recovery = ["–"] * 3 if row.recovery_seconds is None else [f"{one:.1f} s" for one in row.recovery_seconds]
    what = row.what + "".join(f"; {note}" for note in row.notes)
    mode = f"{row.messages} ({row.mode})"
    return [
        row.name,
        what,
        mode,
        str(row.lost),
        str(row.doubled),
        str(row.extra_calls),
        *recovery,
        row.verdict.replace("|", "/"),
    ]
