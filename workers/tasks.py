"""Ending tasks for sure.

On Python 3.11 `asyncio.wait_for`, which redis-py sends every command through, swallows a cancellation that comes
in the moment in which the command has gone out (python/cpython#86296, mended in 3.12). So a task that talks to
Redis is asked to end until it has, and no `asyncio.timeout` stands around a Redis call of ours.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

ASK_AGAIN_SECONDS = 0.5

T = TypeVar("T")


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancels the tasks and waits until each is over. What they raise is dropped."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=ASK_AGAIN_SECONDS)
    for task in tasks:
        if not task.cancelled():
            task.exception()


async def within(seconds: float, work: Coroutine[object, object, T]) -> T:
    """What the work answers or raises. What is not over in time is ended.

    Raises:
        TimeoutError: it was not.
    """
    task = asyncio.create_task(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if done:
            return task.result()
    finally:
        await end(task)
    raise TimeoutError
