"""Fail-points: named places at which a process ends or freezes itself, so that tests can break it exactly there.

    POSTROOM_FAILPOINT=after_take:kill      as by kill -9, the first time it comes there
    POSTROOM_FAILPOINT=after_call:kill@3    the third time
    POSTROOM_FAILPOINT=before_call:stop     frozen, until somebody sends SIGCONT

They are for tests (`make chaos`) and cost one look at an empty list where none is set. A process refuses to start with
one, unless POSTROOM_FAILPOINTS_ALLOWED=1 stands beside it: no deployment breaks itself by a stray variable.
"""

import os
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from workers.errors import ConfigurationError

VARIABLE, ALLOWED = "POSTROOM_FAILPOINT", "POSTROOM_FAILPOINTS_ALLOWED"


class Point(StrEnum):
    """Every place that has a name, in the order in which a message comes by."""

    BEFORE_DISPATCH = "before_dispatch"
    """Read from the stream, not yet in a mailbox."""
    AFTER_DISPATCH = "after_dispatch"
    """In a mailbox; no pool was rung."""
    AFTER_SNAPSHOT = "after_snapshot"
    """The recipients of a bulk send are taken down, none of its deliveries is made."""
    IN_EXPAND = "in_expand"
    """Some of its deliveries are made, not all."""
    AFTER_TAKE = "after_take"
    """Under a lease; nothing was asked of the server."""
    BEFORE_CALL = "before_call"
    """Let through by every policy, the call not begun."""
    AFTER_CALL = "after_call"
    """The server has answered; nothing of it is written."""
    BEFORE_SETTLE = "before_settle"
    """How it ends is decided; nothing of it is written."""
    AFTER_SETTLE = "after_settle"
    """Written; the lease is still kept by this process, and whoever is behind it not rung for."""


@dataclass(slots=True)
class FailPoint:
    """One that is set."""

    point: Point
    number: signal.Signals
    left: int
    """It strikes the so many-th time."""

    def reached(self, point: Point) -> None:
        """The process came there."""
        if point is self.point and self.left > 0:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), self.number)


_SET: list[FailPoint] = []


def hit(point: Point) -> None:
    """The process comes by a point. Does nothing unless that point is set."""
    if _SET:
        _SET[0].reached(point)


def arm(environment: Mapping[str, str]) -> FailPoint | None:
    """Sets the fail-point of an environment, or none; called once, by the composition root.

    Raises:
        ConfigurationError: it is not allowed here, or cannot be read.
    """
    _SET[:] = []
    text = environment.get(VARIABLE, "")
    if not text:
        return None
    if environment.get(ALLOWED) != "1":
        raise ConfigurationError(
            f"{VARIABLE} is set: this process would break itself, for tests. Unset it; or set {ALLOWED}=1 to mean it"
        )
    _SET.append(_read(text))
    return _SET[0]


def _read(text: str) -> FailPoint:
    found = re.fullmatch(r"([a-z_]+):(kill|stop)(?:@([1-9][0-9]{0,5}))?", text)
    if found is None or found[1] not in set(Point):
        points = ", ".join(Point)
        raise ConfigurationError(
            f"{VARIABLE}: expected <point>:kill or <point>:stop, then @<number> where it is not the first time, "
            f"with one of {points}; got {text!r}"
        )
    number = signal.SIGKILL if found[2] == "kill" else signal.SIGSTOP
    return FailPoint(Point(found[1]), number, int(found[3] or 1))
