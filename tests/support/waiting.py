"""Waiting for something that will happen, with an end."""

import asyncio
import inspect
import time
from collections.abc import Callable


async def until(look: Callable[[], object], within: float = 10, every: float = 0.005) -> None:
    """Looks again and again until the answer (of a function or a coroutine) is true; fails after `within` seconds."""
    over_at = time.monotonic() + within
    while True:
        answer = look()
        if await answer if inspect.isawaitable(answer) else answer:
            return
        assert time.monotonic() < over_at, f"not within {within:g} s"
        await asyncio.sleep(every)
