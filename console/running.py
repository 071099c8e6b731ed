"""Running services in the foreground: until a signal asks for the end, and at once when it asks twice."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from console.exits import Code
from workers.roles import Process

try:
    import uvloop
except ImportError:  # not on Windows
    LOOP: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
else:
    LOOP = uvloop.new_event_loop

Result = TypeVar("Result")
READY_SECONDS = 15.0
POLL_SECONDS = 0.05
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_service(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs a long-running command on the fast event loop."""
    with asyncio.Runner(loop_factory=LOOP) as runner:
        return runner.run(work)


class Ending:
    """The end as somebody asks for it: once politely, twice at once."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.insisted = asyncio.Event()

    def ask(self) -> None:
        """One signal."""
        (self.insisted if self.asked.is_set() else self.asked).set()


class PoliteEnding(Ending):
    """For a child: its parent asks, and a supervisor of the whole group may ask as well; neither insists thereby."""

    def ask(self) -> None:
        self.asked.set()


@asynccontextmanager
async def signals(ending: Ending | None = None) -> AsyncIterator[Ending]:
    """Listens to SIGINT and SIGTERM."""
    ending = ending or Ending()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, ending.ask)
    try:
        yield ending
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


async def run_processes(
    processes: Sequence[Process],
    ending: Ending,
    *,
    ready: Callable[[], Awaitable[None]],
    stopping: Callable[[], None],
    in_a_hurry: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Runs processes of the composition root side by side.

    `in_a_hurry` is awaited when the end is asked for twice, before this process ends without a look back.

    Raises:
        ConfigurationError: Redis is not fit; everything is stopped by then.
    """
    work = asyncio.create_task(_serve(processes, ending, ready, stopping), name="serve")
    hurry = asyncio.create_task(ending.insisted.wait(), name="hurry")
    await asyncio.wait({work, hurry}, return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        if in_a_hurry is not None:
            await in_a_hurry()
        sys.stdout.flush()
        sys.stderr.flush()
        # Turns that run are cut; their leases run out, and whoever comes next looks what became of them.
        os._exit(Code.INTERRUPTED)
    hurry.cancel()
    await work


async def _serve(
    processes: Sequence[Process],
    ending: Ending,
    ready: Callable[[], Awaitable[None]],
    stopping: Callable[[], None],
) -> None:
    starting = asyncio.create_task(_start(processes, ready), name="start")
    asked = asyncio.create_task(ending.asked.wait(), name="asked")
    try:
        await asyncio.wait({starting, asked}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            await asked
        stopping()
    finally:
        for task in (starting, asked):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            # Its failure was raised above, or the end was asked for before it was ready.
            await starting
        await asyncio.gather(*(process.stop() for process in processes))


async def _start(processes: Sequence[Process], ready: Callable[[], Awaitable[None]]) -> None:
    for process in processes:
        await process.start()
    await wait_until_ready(processes)
    await ready()


async def wait_until_ready(processes: Sequence[Process]) -> None:
    """Until every service has done a step, or for as long as one is patient; services go on trying by themselves."""
    services = [service for process in processes for layer in process.layers for service in layer]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(READY_SECONDS):
            while not all(service.ready for service in services):  # noqa: ASYNC110  # services have no event for it
                await asyncio.sleep(POLL_SECONDS)
