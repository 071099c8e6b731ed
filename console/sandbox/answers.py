"""How answers leave the sandbox: marked as simulated, and able to break off as a dying server does."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Mapping

from starlette.responses import Content, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from console.sandbox.clock import ServerDied
from console.sandbox.events import dumps

MARK = {"x-postroom-sandbox": "1"}
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Answer(Response):
    """A JSON answer."""

    def __init__(self, body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        marked = {**MARK, **headers} if headers else MARK
        super().__init__(dumps(body), status, marked, media_type="application/json")


class Cut(Response):
    """No answer: the connection is reset."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Reset instead of sending, and wait until the connection is gone, or uvicorn would miss an answer."""
        reset(receive)
        while (await receive())["type"] != "http.disconnect":
            pass


class EventStream(StreamingResponse):
    """Server-sent events; may be cut after the first event, or before the end."""

    def __init__(self, lines: AsyncIterator[str], *, cut: str = "") -> None:
        self._cut = cut
        self._lines = lines
        self._receive: Receive | None = None
        super().__init__(self._send_lines(), headers=MARK, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Keep the connection at hand, for resetting it."""
        self._receive = receive
        await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        """Send the headers with the first event, not before: a stream without events never answers at all."""
        lines = aiter(self.body_iterator)
        try:
            first = await anext(lines)
        except StopAsyncIteration:
            return
        self.body_iterator = _again(first, lines)
        await super().stream_response(send)

    async def _send_lines(self) -> AsyncIterator[str]:
        try:
            async for line in self._lines:
                if self._cut == "last" and '"message_type":"ping"' not in line:
                    break
                yield line
                if self._cut == "first":
                    break
            else:
                return
        except ServerDied:
            pass
        if self._receive is not None:
            reset(self._receive)
            await asyncio.sleep(0)  # the loop tells uvicorn that the connection is gone, so it misses no answer


async def _again(first: Content, rest: AsyncIterator[Content]) -> AsyncIterator[Content]:
    yield first
    async for line in rest:
        yield line


def reset(receive: Receive) -> None:
    """Reset the client's connection, below HTTP: uvicorn's `receive` is a method of the object that has it.

    Outside uvicorn (an in-memory transport) there is no socket, and the call ends with an error instead.
    """
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    if transport is None:
        raise ConnectionResetError("the sandbox dropped this connection")
    raw = transport.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()
