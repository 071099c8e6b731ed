"""Room for turns in this process: by pool, under the server's in-flight limit, shared between tenants.

A tenant that holds slots already leaves a few to those that hold none: whatever one tenant has in flight, and
however slow its agents are, another's message finds room at once.
"""

import asyncio
from collections import Counter

from schemas.context import Context
from schemas.ids import TenantId
from workers.broker.rules import Pool
from workers.turn.breaker import Breaker
from workers.turn.inflight import AdaptiveLimit

RESERVED_SHARE = 20
"""One slot in so many, and at least one, is for tenants that hold none."""
EXPRESS_SHARE = 8
"""One of the server's slots in so many, and at least one, is for the express pool."""


def usable(limit: int) -> int:
    """Of so many places on a server, those that one tenant may fill by one pool, beside the others' reserves."""
    return max(1, limit - _reserve(limit) - _for_express(limit))


class ServerSlots:
    """Turns in flight at one Letta server, over all pools of this process. With a breaker that is open, no room but
    for the one turn that it lets through.
    """

    def __init__(self, limit: AdaptiveLimit, breaker: Breaker | None = None) -> None:
        self.limit = limit
        self._breaker = breaker
        self._held: Counter[TenantId] = Counter()

    @property
    def granted(self) -> int:
        """Turns granted now, by all pools."""
        return self._held.total()

    @property
    def is_left_alone(self) -> bool:
        """Whether turns may not begin as they come."""
        return self._breaker is not None and self._breaker.is_open

    def granted_one(self) -> None:
        """The one turn that is let through has its place."""
        if self._breaker is not None:
            self._breaker.granted()

    def unused(self) -> None:
        """A place was given back with no turn begun in it."""
        if self._breaker is not None:
            self._breaker.unused()

    def holds(self, tenant: TenantId) -> bool:
        """Whether the tenant has a turn in any pool: several pools must not be several ways to all there is."""
        return tenant in self._held

    def give(self, tenant: TenantId, count: int) -> None:
        """Counts turns, back ones as negative."""
        self._held[tenant] += count
        if self._held[tenant] <= 0:
            del self._held[tenant]

    def room(self, pool: Pool) -> int:
        """How many more this pool may begin."""
        if self._breaker is not None and self._breaker.is_open:
            return int(self._breaker.admits)
        current = self.limit.current
        reserved = 0 if pool is Pool.EXPRESS else _for_express(current)
        stuck = min(self.limit.stuck, self.granted)
        return max(0, min(current - reserved + stuck, self.limit.highest) - self.granted)


class Slots:
    """Turns in flight in one pool of this process."""

    def __init__(self, pool: Pool, size: int, server: ServerSlots) -> None:
        self.pool = pool
        self._size = size
        self._server = server
        self._held: Counter[TenantId] = Counter()
        self._released = asyncio.Event()
        self.rivals = 0
        """How many other drains waited at the last look at the queue."""

    @property
    def in_use(self) -> int:
        """Turns granted now."""
        return self._held.total()

    @property
    def free(self) -> int:
        """Turns that could be granted to somebody now."""
        return max(0, min(self._size - self.in_use, self._server.room(self.pool)))

    def grant(self, context: Context) -> int:
        """As many slots as the tenant may have now: its share of what is free, with rivals waiting. Often 0."""
        free = self.free
        if free == 0:
            return 0
        if self._server.is_left_alone:
            self._server.granted_one()
            return self._give(context, 1)
        fair = max(1, free // (1 + self.rivals))
        beyond_reserve = min(
            self._size - self.in_use - _reserve(self._size),
            self._server.room(self.pool) - _reserve(self._server.limit.current),
        )
        return self._give(context, max(0 if self._server.holds(context.tenant) else 1, min(fair, beyond_reserve)))

    def _give(self, context: Context, count: int) -> int:
        self._held[context.tenant] += count
        self._server.give(context.tenant, count)
        return count

    def hand_back(self, context: Context, count: int) -> None:
        """Gives back slots that no turn was found for."""
        self.release(context, count)
        if count:
            self._server.unused()

    def release(self, context: Context, count: int = 1) -> None:
        """Gives slots back."""
        self._held[context.tenant] -= count
        self._server.give(context.tenant, -count)
        if self._held[context.tenant] <= 0:
            del self._held[context.tenant]
        self._released.set()
        self._released = asyncio.Event()

    async def changed(self, within_seconds: float) -> None:
        """Waits until a slot is given back, at most so long."""
        released = self._released
        try:
            async with asyncio.timeout(max(0.0, within_seconds)):
                await released.wait()
        except TimeoutError:
            return


def _reserve(of: int) -> int:
    """How many of so many are for tenants that hold none."""
    return max(1, of // RESERVED_SHARE) if of > 1 else 0


def _for_express(of: int) -> int:
    """How many of so many are for the express pool."""
    return max(1, of // EXPRESS_SHARE) if of > 1 else 0
