"""Start and stop, the same for every long-running loop.

A service outlives Redis: whatever a step raises is logged, waited out with a growing, jittered pause, and tried
again. Starting twice, stopping twice, stopping before or during a start are all harmless.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import TypeVar

from workers.backoff import backoff_ms
from workers.broker.client import REDIS_AWAY
from workers.resources import Resources
from workers.tasks import end

T = TypeVar("T")

PAUSE_BASE_MS, PAUSE_CAP_MS = 100, 2_000


class Service(ABC):
    """One loop. Subclasses write `step`; `prepare` and `finish` where there is something to open and close."""

    name: str
    every_seconds: float = 0.0
    """The pause after a step that went well."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.ready = False
        """Whether it was prepared and nothing has failed since: readiness for probes."""
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def stopping(self) -> bool:
        """Whether somebody asked for the end."""
        return self._stopping.is_set()

    @abstractmethod
    async def step(self) -> None:
        """One turn of the loop: does what there is, waits for more where there is none."""

    async def prepare(self) -> None:  # noqa: B027  # most have no need of it
        """Before the first step, and again after a step failed."""

    async def finish(self) -> None:  # noqa: B027  # most have no need of it
        """After the last step, within the grace."""

    async def start(self) -> None:
        """Starts the loop. A second start changes nothing."""
        if self._task is None and not self.stopping:
            self._task = asyncio.create_task(self._supervise(), name=self.name)

    async def stop(self, grace_seconds: float = 10) -> None:
        """Asks for the end and waits; what is not over within the grace is cancelled."""
        self._stopping.set()
        self.wake()
        task = self._task
        if task is None:
            return
        done, _ = await asyncio.wait({task}, timeout=grace_seconds)
        if not done:
            await end(task)

    def wake(self) -> None:  # noqa: B027  # most have no need of it
        """Called when the end is asked for; a service that waits on something of its own stops waiting."""

    async def unless_stopping(self, waiting: Coroutine[object, object, T]) -> T | None:
        """Waits for something that changes nothing if it is cut short; None where the end came first."""
        task = asyncio.create_task(waiting)
        ending = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({task, ending}, return_when=asyncio.FIRST_COMPLETED)
            return await task if task.done() else None
        finally:
            await end(task, ending)

    async def pause(self, seconds: float) -> None:
        """Waits, but not past the end."""
        await self.unless_stopping(self.resources.clock.sleep(seconds))

    async def _supervise(self) -> None:
        log = self.resources.log.process.bind(service=self.name)
        failures = 0
        prepared = False
        try:
            while not self.stopping:
                try:
                    if not prepared:
                        await self.prepare()
                        prepared = self.ready = True
                        log.info("ready")
                    await self.step()
                except REDIS_AWAY as error:
                    log.warning("redis is away", error_type=type(error).__name__, count=failures + 1)
                except Exception:
                    log.exception("step failed", count=failures + 1)
                else:
                    failures = 0
                    if self.every_seconds:
                        await self.pause(self.every_seconds)
                    continue
                self.ready = prepared = False
                failures += 1
                pause = backoff_ms(
                    failures, base_ms=PAUSE_BASE_MS, cap_ms=PAUSE_CAP_MS, random=self.resources.random.random
                )
                await self.pause(pause / 1000)
        finally:
            self.ready = False
            try:
                await self.finish()
            except REDIS_AWAY as error:
                log.warning("redis is away", error_type=type(error).__name__)
            except Exception:
                log.exception("finish failed")
