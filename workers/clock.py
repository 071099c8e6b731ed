"""The one place for time. Due times, leases, expiry and windows run on Redis' clock, inside the scripts;
this clock is for what stays in a process: deadlines, pauses, latencies, log stamps.
"""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Time, injected so that tests never wait for luck."""

    def now_ms(self) -> int:
        """Wall-clock time in epoch milliseconds. For people and logs only."""

    def monotonic(self) -> float:
        """Seconds that never jump. For deadlines and latencies."""

    async def sleep(self, seconds: float) -> None:
        """Waits."""


class SystemClock:
    """The clock of this machine."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
