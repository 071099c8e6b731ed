"""The sandbox's clock and its waits: tests move the one and end the others, instead of sleeping."""

import asyncio
import time
from datetime import UTC, datetime


class Clock:
    """Wall time that a test can move forward, so that a lock's five minutes pass at once."""

    def __init__(self) -> None:
        self._ahead_seconds = 0.0

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time() + self._ahead_seconds

    def advance(self, seconds: float) -> None:
        """Move forward; locks and otid mappings age, turns in progress do not hurry."""
        self._ahead_seconds += seconds


class ServerDied(Exception):  # noqa: N818 - an event in the simulated world, not an error of ours
    """The simulated process ended in the middle of a turn: nothing is written any more, no lock is freed."""


class Waits:
    """Every wait of every turn, in one place, so that a simulated crash ends them all at once."""

    def __init__(self) -> None:
        self._open: set[asyncio.Future[None]] = set()

    async def sleep(self, seconds: float) -> None:
        """Wait, or raise ServerDied when the simulated process ends meanwhile."""
        if seconds <= 0:
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _finish, future)
        try:
            await self.until(future)
        finally:
            timer.cancel()

    async def until(self, future: asyncio.Future[None]) -> None:
        """Wait for a future of the caller's under the same rule."""
        self._open.add(future)
        try:
            await future
        finally:
            self._open.discard(future)

    def crash(self) -> None:
        """End every wait with ServerDied."""
        for future in tuple(self._open):
            if not future.done():
                future.set_exception(ServerDied())


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def aware(at: float) -> str:
    """`2026-11-21T06:33:48.782597Z`, as created_at is written."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def naive(at: float) -> str:
    """`2026-11-21T06:33:59.725165`: completed_at has no zone on the real server."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")


def whole_second(at: float) -> str:
    """`2026-11-21T06:33:49+00:00`, as message dates are written."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S+00:00")
