"""How long this process has left something to a newer one: by its own clock, from when it first met it."""

from workers.clock import Clock

MOST = 10_000
"""More are not remembered: then there is no patience with what comes."""


class Patience:
    """What is left for a worker that knows it, each for so many seconds."""

    def __init__(self, clock: Clock, seconds: float, *, most: int = MOST) -> None:
        self._clock = clock
        self._seconds = seconds
        self._most = most
        self._met_at: dict[str, float] = {}
        """In the order in which they were met."""

    def is_over(self, what: str) -> bool:
        """Whether it was left for long enough. The first question begins the time."""
        now = self._clock.monotonic()
        for other, met_at in list(self._met_at.items()):
            # Somebody else has dealt with it long ago.
            if now - met_at <= 2 * self._seconds:
                break
            if other != what:
                del self._met_at[other]
        if what not in self._met_at and len(self._met_at) >= self._most:
            return True
        return now - self._met_at.setdefault(what, now) >= self._seconds
