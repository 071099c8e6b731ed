"""How many turns run at once, and how many ever did: the figure by which tests prove one turn at a time."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from console.sandbox.clock import Waits


@dataclass(slots=True)
class Gate:
    """Counters and, when `limit` is set, the queue inside that a real server has (it never refuses)."""

    limit: int = 0
    running: int = 0
    most_running: int = 0
    begun: int = 0
    ended: int = 0
    requests: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)

    async def enter(self, waits: Waits) -> None:
        """Take a place; when all are taken, wait in order until one is handed over."""
        if self.limit and self.running >= self.limit:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.waiting.append(future)
            await waits.until(future)
        else:
            self.running += 1
        self.begun += 1
        self.most_running = max(self.most_running, self.running)

    def leave(self) -> None:
        """Give the place back, to the next in line if there is one."""
        self.running -= 1
        self.ended += 1
        self.wake()

    def wake(self) -> None:
        """Hand free places over in order: after a turn ended, or when the limit was raised."""
        while self.waiting and (not self.limit or self.running < self.limit):
            future = self.waiting.popleft()
            if not future.done():
                self.running += 1
                future.set_result(None)

    def counts(self) -> dict[str, int]:
        """For `GET /_sandbox/state`."""
        return {
            "requests": self.requests,
            "turns": self.begun,
            "ended": self.ended,
            "in_flight": self.running,
            "queued": len(self.waiting),
            "max_in_flight": self.most_running,
        }
