"""Time that moves when told to: one hand for the scripts' clock, one for the processes'."""

import asyncio

from workers.broker.client import Client

_KEY = "postroom:test:now_us"
CLOCK_LUA = f"""
local function now_us()
  return tonumber(redis.call('GET', '{_KEY}'))
end
"""


class ScriptTime:
    """The clock of scripts built with CLOCK_LUA. Starts at the server's time and stands still.

    It starts at a whole millisecond: a test that counts milliseconds may move it by some microseconds, too, and must
    not be carried into the next one by when it was started.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.now_us = 0

    async def start(self) -> None:
        seconds, micros = await self._client.time()
        self.now_us = int(seconds) * 1_000_000 + int(micros) // 1000 * 1000
        await self._client.set(_KEY, self.now_us)

    async def advance(self, *, ms: float = 0, seconds: float = 0) -> None:
        self.now_us += round(ms * 1000 + seconds * 1_000_000)
        await self._client.set(_KEY, self.now_us)

    @property
    def now_ms(self) -> int:
        return self.now_us // 1000

    @staticmethod
    def owns(key: str) -> bool:
        return key == _KEY


class FakeClock:
    """A process clock: `sleep` returns at once and moves the hand."""

    def __init__(self, now_ms: int = 1_800_000_000_000) -> None:
        self._ms = float(now_ms)
        self._monotonic = 1000.0

    def now_ms(self) -> int:
        return int(self._ms)

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._ms += seconds * 1000
        self._monotonic += seconds

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)
        await asyncio.sleep(0)
