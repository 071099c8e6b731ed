"""The watchdog ends a process whose event loop no longer turns, and no other."""

import asyncio
import threading
import time

from workers.watchdog import Watchdog


async def test_a_loop_that_stalls_is_ended_from_outside_it() -> None:
    """A27: one step of synchronous work stalls ten messages. Here the end only says so."""
    ended = threading.Event()
    watchdog = Watchdog(stalled_seconds=0.05, end=ended.set)
    watchdog.start()
    await asyncio.sleep(0)

    assert ended.wait(5), "the loop stood still, and nobody ended it"
    watchdog.stop()


async def test_a_loop_that_turns_is_left_alone() -> None:
    ended = threading.Event()
    watchdog = Watchdog(stalled_seconds=3.0, end=ended.set)
    watchdog.start()
    over_at = time.monotonic() + 0.3
    while time.monotonic() < over_at:
        await asyncio.sleep(0.01)
    watchdog.stop()

    assert not ended.is_set()


async def test_after_its_stop_nobody_watches() -> None:
    ended = threading.Event()
    watchdog = Watchdog(stalled_seconds=0.05, end=ended.set)
    watchdog.start()
    watchdog.stop()

    assert not ended.wait(0.2)
