"""The numbers every script must agree on, and which pool looks at which priority.

One set for a whole deployment: two processes with different rules would disagree about the same mailbox.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

RATE_WINDOW_MS = 60_000
WINDOW_PAD_MS = 1_000
"""The windows in Redis are longer by this much, at the cost of 1.6 % of the rate: a window is charged when a
delivery is taken, and counts at the server when its call arrives there."""
CALL_WITHIN_MS = 500
"""A charged delivery is called within this time or goes back; the rest of the pad is for the way to the server."""


FULL_PAUSE_MS = 1_000
"""How long a tenant's stream rests when its bytes are used up."""

PARKED_MS = 8_640_000_000_000_000
"""Until when a parked agent is held: never. The last time a JavaScript Date knows, and still exact as a double."""


SUSPECT_PAUSE_MS = 1_000
"""How long what may have taken workers down waits for another such one to come to its end."""


class Pool(StrEnum):
    """A pool of workers: a flood of one kind cannot take the slots of another."""

    EXPRESS = "express"
    STANDARD = "standard"
    BULK = "bulk"


RANKS_OF_POOL: dict[Pool, tuple[int, ...]] = {
    Pool.EXPRESS: (0, 1),
    Pool.STANDARD: (0, 1, 2, 3),
    Pool.BULK: (3, 2, 1, 0),
}
POOL_OF_RANK: tuple[Pool, ...] = (Pool.EXPRESS, Pool.EXPRESS, Pool.STANDARD, Pool.BULK)


@dataclass(frozen=True, slots=True)
class Wait:
    """How many replicas must have a write before what depends on it goes on (docs/decisions/0016)."""

    replicas: int = 0
    """0: the master's word is enough."""
    timeout_ms: int = 1_000


@dataclass(frozen=True, slots=True)
class Rules:
    """What may be chosen, by setting."""

    aging_ms: tuple[int, int, int, int] = (0, 15_000, 60_000, 300_000)
    """How long an urgent, high, normal, low delivery waits until it goes before more urgent ones."""
    kept_ms: int = 7 * 24 * 3_600_000
    """How long ended messages and events are kept. At least 24 h: they also tell repeated publishes."""
    max_crashes: int = 3
    """How many workers may fall silent over one delivery."""
    per_step: int = 100
    """How much due, overdue and expired work one script call moves."""
    history_bytes: int = 2_000
    park_after: int = 5
    """How many messages of an agent in a row may end dead until it is parked; 0: it never is."""

    def as_lua(self) -> Iterator[str]:
        """The rules as Lua, for the head of every script."""
        aging = ", ".join(str(ms) for ms in self.aging_ms)
        yield f"local AGING_MS = {{{aging}}}"
        yield f"local KEPT_MS, MAX_CRASHES = {self.kept_ms}, {self.max_crashes}"
        yield f"local PER_STEP, HISTORY_BYTES = {self.per_step}, {self.history_bytes}"
        yield f"local FULL_PAUSE_MS, SUSPECT_PAUSE_MS = {FULL_PAUSE_MS}, {SUSPECT_PAUSE_MS}"
        yield f"local PARK_AFTER, PARKED_MS = {self.park_after}, {PARKED_MS}"
        yield f"local RATE_WINDOW_MS = {RATE_WINDOW_MS + WINDOW_PAD_MS}"
        pools = ", ".join(f"'{pool}'" for pool in POOL_OF_RANK)
        yield f"local POOL_OF_RANK, OVERFLOW_POOL = {{{pools}}}, '{Pool.STANDARD}'"
        orders = ", ".join(
            f"{pool} = {{{', '.join(str(rank) for rank in ranks)}}}" for pool, ranks in RANKS_OF_POOL.items()
        )
        yield f"local RANKS_OF_POOL = {{{orders}}}"
