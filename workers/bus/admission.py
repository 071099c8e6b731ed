"""Stops accepting before Redis is full: finishing what was accepted needs room, too (HAZARDS.md A13, S14)."""

from schemas.context import Context
from workers.broker.client import Client
from workers.clock import Clock
from workers.errors import OverloadedError

STOP_AT = 0.85
LOOK_EVERY_SECONDS = 2.0


class Admission:
    """Looks at Redis' memory now and then, and refuses past a share of its ceiling."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._looked_at = float("-inf")
        self._share = 0.0

    async def check(self, context: Context) -> None:
        """Lets one message in.

        Raises:
            OverloadedError: Redis is nearly full.
        """
        now = self._clock.monotonic()
        if now - self._looked_at >= LOOK_EVERY_SECONDS:
            self._looked_at = now
            memory = await self._client.info("memory")
            ceiling = int(memory.get("maxmemory", 0))
            self._share = int(memory.get("used_memory", 0)) / ceiling if ceiling else 0.0
        if self._share >= STOP_AT:
            raise OverloadedError(
                f"Redis is {self._share:.0%} full; try again later", where=f"tenant {context.tenant!r}"
            )
