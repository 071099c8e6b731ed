"""A local stub of a Letta server, as fast as one event loop can be: it parses what it must and answers fixed bytes.

It begins no turn and has no model. It notes when each request that carries a time was there: `@<monotonic seconds>`
anywhere in the body, on the clock that all processes of a machine share.
"""

import asyncio
import json
import re
import time
from typing import cast

from bench.agents import listed

HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_SENT_AT = re.compile(rb"@(\d+\.\d+)")
_USAGE = {"message_type": "usage_statistics", "prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
_REPLY = {"id": "message-1", "message_type": "assistant_message", "date": "2026-01-01T00:00:00Z", "content": "ok"}
_STOP = {"message_type": "stop_reason", "stop_reason": "end_turn"}
_RUN = {"run_id": "run-00000000-0000-4000-8000-000000000001"}


def _http(status: str, body: bytes, kind: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (status.encode(), kind, len(body), body)


BLOCKING = _http("200 OK", json.dumps({"messages": [_REPLY], "stop_reason": _STOP, "usage": _USAGE}).encode())
STREAM = _http(
    "200 OK",
    b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in ({**_REPLY, **_RUN}, _STOP, _USAGE))
    + b"data: [DONE]\n\n",
    b"text/event-stream",
)
HEALTH = _http("200 OK", json.dumps({"version": "0.16.4-stub", "status": "ok"}).encode())
NO_ROUTE = _http("404 Not Found", b'{"detail":"Not Found"}')
NO_REDIS = _http("503 Service Unavailable", b'{"detail":"background streaming requires Redis"}')
NONE = _http("200 OK", b"[]")


class Stub:
    """One server. `streams`: whether it has runs, so that turns are streams; else each is one blocking call."""

    def __init__(self, *, delay_seconds: float, streams: bool, agents: int) -> None:
        self.delay_seconds = delay_seconds
        self.streams = streams
        self.requests = 0
        self.waits: list[float] = []
        """Seconds from the time in each request to its arrival here."""
        self._server: asyncio.Server | None = None
        self._agents = _http("200 OK", json.dumps(listed(agents)).encode())

    async def start(self) -> str:
        """Listens on a free port; the answer is the base URL."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=4096)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Listens no more."""
        if self._server is not None:
            self._server.close()

    def answer(self, method: bytes, path: bytes, body: bytes) -> tuple[bytes, float]:
        """What is sent back, and after how long."""
        if method == b"POST" and path.partition(b"?")[0].endswith(b"/messages"):
            self.requests += 1
            sent_at = _SENT_AT.search(body)
            if sent_at:
                self.waits.append(time.monotonic() - float(sent_at[1]))
            return (STREAM if b"/conversations/" in path else BLOCKING), self.delay_seconds
        if b"/health" in path:
            return HEALTH, 0
        if b"/stream" in path:
            return (NO_REDIS if self.streams else NO_ROUTE), 0
        if b"/runs" in path:
            return (NONE if self.streams else NO_ROUTE), 0
        if b"/agents" in path:
            return (NONE if b"after=" in path else self._agents), 0
        return NO_ROUTE, 0


class _Connection(asyncio.Protocol):
    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is not one by class.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            head_end = self._buffer.find(HEAD_END)
            if head_end < 0:
                return
            length = _LENGTH.search(self._buffer, 0, head_end)
            end = head_end + len(HEAD_END) + (int(length[1]) if length else 0)
            if len(self._buffer) < end:
                return
            request, self._buffer = self._buffer[:end], self._buffer[end:]
            method, path, _ = request.split(b" ", 2)
            said, delay = self._stub.answer(method, path, request[head_end:])
            if delay:
                asyncio.get_running_loop().call_later(delay, self._write, said)
            else:
                self._write(said)

    def _write(self, said: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(said)
