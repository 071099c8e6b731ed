"""How many turns one Letta server is given at a time.

A Letta server never refuses: past what it can do (about eight turns a process, LETTA.md section 10) it queues
inside, and more in flight only makes everyone wait. The limit finds that point by trying. It holds two
levels in turn, one a little below its centre and one a little above, and compares how many turns a second
end on each. Where more in flight gives more, the server had room and the centre goes up; where it gives no
more, the rest only queued and the centre goes down. So it rests where the curve bends. Neighbouring moments
are compared, and turns are counted, not timed: slow models or long prompts change both levels alike. Latency
is only an alarm: where it doubles at once, half of the limit goes before the next comparison can tell.

It learns only while it is what holds the turns back: from turns beside which, at some time, every place was taken
but those that are kept free for others. Turns may well begin and end together, a batch at a time. Arithmetic alone,
on the clock it is given.

A turn that takes much longer than turns do holds no place any more: agents that never answer must not keep the others
waiting. Where nothing at all ends, more are let in, up to a bound, to see whether it is the server or those few.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from workers.clock import Clock

STARTS_AT = 8
_SPREAD = 1.25
"""The levels are the centre divided and multiplied by this: far enough apart to tell, near enough to cost little."""
_WORTH = 0.15
"""The gain in turns a second, as a share of the gain in flight, at which more in flight is just worth it."""
_STEP = 0.35
"""The most the centre moves after one comparison, as a logarithm: about 40 % up, 30 % down."""
_FEWEST = 32
"""Turns counted on a level, or three times the level if more."""
_FULL = 0.8
"""The share of turns beside which every place must have been taken, for a level to count as tried."""
_ALARM = 2.0
_PATIENCE_SECONDS, _PATIENCE_IN_WAITS = 5.0, 2.0
"""A turn holds its place for so long, or for so many times what turns lately took if that is longer."""
_LATELY = 16
"""What turns lately took is judged by about so many."""
_MOST_STUCK = 4
"""At most so many times the limit is let in beside it."""


@dataclass(slots=True, eq=False)
class Token:
    """One turn in flight."""

    started_at: float
    number: int


@dataclass(slots=True)
class _Level:
    """One try of one limit. The first turns to end belong to the level before and are not counted."""

    limit: int
    unsettled: int
    began_at: float = 0.0
    ended: int = 0
    full: int = 0
    waited: float = 0.0
    rate: float = 0.0
    """Turns a second, once it is over."""

    @property
    def is_over(self) -> bool:
        return self.ended >= max(_FEWEST, 3 * self.limit)


class AdaptiveLimit:
    """The places on one server: take one with `started`, give it back with `ended`."""

    def __init__(
        self, clock: Clock, *, highest: int, lowest: int = 1, usable: Callable[[int], int] = lambda limit: limit
    ) -> None:
        """`usable` says how many places of a limit are sure to be filled by who wants them all."""
        if not 1 <= lowest <= highest:
            raise ValueError(f"expected 1 <= lowest <= highest, got {lowest} and {highest}")
        self._clock = clock
        self._lowest = lowest
        self._highest = highest
        self._usable = usable
        self._centre = float(min(max(STARTS_AT, lowest), highest))
        self._flying: dict[Token, None] = {}
        self._numbered = 0
        self._crowded = 0
        """Every place was taken when the turn of this number began."""
        self._ended_at = -math.inf
        self._mean = 0.0
        self._usual_wait: float | None = None
        self._below: _Level | None = None
        self._level = self._new_level(above=False)

    @property
    def current(self) -> int:
        """Turns allowed in flight now."""
        return self._level.limit

    @property
    def in_flight(self) -> int:
        """Turns in flight: more than `current` for a while after that went down."""
        return len(self._flying)

    @property
    def highest(self) -> int:
        """Never more in flight than this, stuck or not."""
        return self._highest

    @property
    def stuck(self) -> int:
        """Turns in flight that hold no place."""
        if not self._flying:
            return 0
        now = self._clock.monotonic()
        patience = max(_PATIENCE_SECONDS, _PATIENCE_IN_WAITS * self._mean)
        begun = [token.started_at for token in self._flying]
        old = sum(1 for at in begun if now - at > patience)
        quiet = min(int((now - max(self._ended_at, min(begun))) / patience), _MOST_STUCK)
        return min(max(old, self.current * ((1 << quiet) - 1)), _MOST_STUCK * self.current, self.in_flight)

    @property
    def room(self) -> int:
        """Turns that may be started now."""
        return max(0, min(self.current + self.stuck, self._highest) - self.in_flight)

    def started(self, *, age_seconds: float = 0.0) -> Token:
        """A turn is sent; or one that was sent so long ago is joined."""
        self._numbered += 1
        token = Token(self._clock.monotonic() - age_seconds, self._numbered)
        self._flying[token] = None
        if self.in_flight - self.stuck >= self._usable(self.current):
            self._crowded = self._numbered
        return token

    def ended(self, token: Token, *, counted: bool) -> None:
        """A turn is over. `counted` is False where the server did no work for it: refused, busy, not sent."""
        now = self._clock.monotonic()
        is_full = token.number <= self._crowded
        self._flying.pop(token, None)
        if not counted:
            return
        self._ended_at = now
        self._mean += (now - token.started_at - self._mean) / _LATELY
        level = self._level
        if level.unsettled > 0:
            level.unsettled -= 1
            level.began_at = now
            return
        level.ended += 1
        level.full += is_full
        level.waited += now - token.started_at
        if level.is_over:
            self._conclude(level, now)

    def _conclude(self, level: _Level, now: float) -> None:
        """A level has been tried: the next one, and after both a comparison."""
        if level.full < _FULL * level.ended or now <= level.began_at:
            # Something else held the turns back: this says nothing about the server.
            self._level = self._new_level(above=self._below is not None)
            return
        level.rate = level.ended / (now - level.began_at)
        if self._is_alarming(level.waited / level.ended):
            self._move(-math.log(2))
        elif self._below is None:
            self._below, self._level = level, self._new_level(above=True)
            return
        else:
            self._compare(self._below, level)
        self._below, self._level = None, self._new_level(above=False)

    def _is_alarming(self, wait: float) -> bool:
        """Whether turns suddenly take twice as long; that is then usual, so that it alarms only once."""
        usual = self._usual_wait
        alarming = usual is not None and wait > _ALARM * usual
        self._usual_wait = wait if usual is None or alarming else usual + (wait - usual) / 4
        return alarming

    def _compare(self, below: _Level, above: _Level) -> None:
        more = self._usable(above.limit) / self._usable(below.limit)
        if more <= 1:
            return
        gain = math.log(above.rate / below.rate) / math.log(more)
        excess = gain - _WORTH
        scale = 1 - _WORTH if excess > 0 else _WORTH
        self._move(_STEP * max(-1.0, min(1.0, excess / scale)))

    def _move(self, by: float) -> None:
        self._centre = min(max(self._centre * math.exp(by), self._lowest), self._highest)

    def _new_level(self, *, above: bool) -> _Level:
        below = max(self._lowest, round(self._centre / _SPREAD))
        limit = min(self._highest, max(below + 1, round(self._centre * _SPREAD))) if above else below
        return _Level(limit, unsettled=limit, began_at=self._clock.monotonic())
