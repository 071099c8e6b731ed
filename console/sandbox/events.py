"""The events of one streamed run: written once, read by any number of clients from any point.

A background run's log also stands for the Redis stream of a real server: its lines carry sequence numbers,
a reader stops at the first line marked complete, and a run without a log makes a reader wait for ever.
"""

import asyncio
import json
from collections.abc import AsyncIterator

from console.sandbox.clock import Clock, ServerDied, whole_second
from console.sandbox.ids import new_id
from console.sandbox.nouns import JsonObject

KEEPALIVE_SECONDS = 20.0
DONE = "data: [DONE]\n\n"


def dumps(body: object) -> str:
    """Compact JSON with the characters as they are, as the real server writes it."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False)


def ping(run_id: str, now: float) -> JsonObject:
    """The first event of a stream, and the keep-alive."""
    return {
        "id": new_id("ping"),
        "date": whole_second(now),
        "name": None,
        "message_type": "ping",
        "otid": None,
        "sender_id": None,
        "step_id": None,
        "is_err": None,
        "seq_id": None,
        "run_id": run_id,
    }


class EventLog:
    """Lines of one run and whoever waits for more of them."""

    def __init__(self, run_id: str, *, numbered: bool) -> None:
        self.run_id = run_id
        self._numbered = numbered
        self._lines: list[tuple[str, bool]] = []
        self._closed = False
        self._deaths = 0
        self._changed = asyncio.Event()

    def data(self, body: JsonObject) -> None:
        """One `data:` event."""
        if self._numbered and body.get("seq_id", 0) is None:
            body = {**body, "seq_id": len(self._lines) + 1}
        self.line(f"data: {dumps(body)}\n\n")

    def failure(self, body: JsonObject) -> None:
        """One `event: error`; it completes a background log, so that no [DONE] is read after it."""
        if self._numbered:
            body = {**body, "seq_id": len(self._lines) + 1}
        self.line(f"event: error\ndata: {dumps(body)}\n\n", complete=self._numbered)

    def line(self, text: str, *, complete: bool = False) -> None:
        """A line as it is."""
        self._lines.append((text, complete))
        self._wake()

    def close(self) -> None:
        """Nothing more will come; readers end when they have read all. Not called when the server died."""
        self._closed = True
        self._wake()

    def die(self) -> None:
        """The server ended: whoever reads now loses the connection, whoever comes later waits for ever."""
        self._deaths += 1
        self._wake()

    async def read(self, clock: Clock, *, after: int = 0, pings: bool = True) -> AsyncIterator[str]:
        """Lines after a sequence number, live; keep-alive pings while nothing happens."""
        position, deaths = after, self._deaths
        while True:
            if self._deaths != deaths:
                raise ServerDied
            while position < len(self._lines):
                text, complete = self._lines[position]
                position += 1
                yield text
                if complete:
                    return
            if self._closed and position == len(self._lines):
                return
            changed = self._changed
            try:
                await asyncio.wait_for(changed.wait(), KEEPALIVE_SECONDS)
            except TimeoutError:
                if pings:
                    yield f"data: {dumps(ping(self.run_id, clock.now()))}\n\n"

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
