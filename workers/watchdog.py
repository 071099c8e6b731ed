"""A thread that ends the process when its event loop no longer turns: one bad step must not hold ten messages.

The leases of a process that ends so run out, and its work is taken up elsewhere (HAZARDS.md A27).
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable

BEAT_SECONDS = 1.0
STALLED_SECONDS = 60.0
EXIT_CODE = 70
"""EX_SOFTWARE of sysexits.h."""


def _end_process() -> None:
    os._exit(EXIT_CODE)


class Watchdog:
    """Watches one loop from outside it."""

    def __init__(self, *, stalled_seconds: float = STALLED_SECONDS, end: Callable[[], None] = _end_process) -> None:
        self._stalled_seconds = stalled_seconds
        self._end = end
        self._beat_at = time.monotonic()
        self._over = threading.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to watch the running loop."""
        self._task = asyncio.create_task(self._beat(), name="watchdog")
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Stops watching."""
        self._over.set()
        if self._task is not None:
            self._task.cancel()

    async def _beat(self) -> None:
        while True:
            self._beat_at = time.monotonic()
            await asyncio.sleep(BEAT_SECONDS)

    def _watch(self) -> None:
        while not self._over.wait(min(BEAT_SECONDS, self._stalled_seconds / 2)):
            if time.monotonic() - self._beat_at > self._stalled_seconds:
                self._end()
                return
