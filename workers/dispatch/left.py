"""What stands on a stream in the words of a newer version: left there for a while, for a dispatcher that knows them."""

from dataclasses import dataclass, replace

from schemas.delivery import Cause
from workers.clock import Clock
from workers.dispatch.route import Newer, Refused

MOST = 10_000
"""With so many left on a stream, the next are refused at once: what is good behind them must go on."""


@dataclass(frozen=True, slots=True)
class _Left:
    refusal: Refused
    until: float
    """Monotonic."""


class LeftForNewer:
    """Of one stream, while this dispatcher owns it. What is left holds up nothing behind it."""

    def __init__(self, clock: Clock, wait_seconds: float) -> None:
        self._clock = clock
        self._wait_seconds = wait_seconds
        self._left: dict[str, _Left] = {}
        """By entry, in the order in which they were met."""

    def __len__(self) -> int:
        return len(self._left)

    def leave(self, newer: Newer) -> Refused | None:
        """Leaves an entry, or what it comes to where there is no leaving. Met again, its time goes on."""
        refusal = replace(newer.refusal, cause=Cause.NEWER, detail=self._detail(newer.refusal))
        if newer.refusal.entry_id in self._left:
            return None
        if len(self._left) >= MOST or not self._wait_seconds:
            return refusal
        self._left[refusal.entry_id] = _Left(refusal, self._clock.monotonic() + self._wait_seconds)
        return None

    @property
    def over_in(self) -> float:
        """Seconds until the first one's time is over; there is one."""
        first = next(iter(self._left.values()))
        return max(0.0, first.until - self._clock.monotonic())

    def over(self) -> list[Refused]:
        """What was left for long enough."""
        now = self._clock.monotonic()
        return [one.refusal for one in self._left.values() if one.until <= now]

    def forget(self, refusals: list[Refused]) -> None:
        """These are no longer on the stream."""
        for one in refusals:
            self._left.pop(one.entry_id, None)

    def _detail(self, refusal: Refused) -> str:
        return f"{refusal.detail}: of a newer version, and none took it within {self._wait_seconds:g} s"
