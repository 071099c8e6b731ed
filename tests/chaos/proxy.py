"""A TCP proxy that can refuse, reset, stall, slow, and lose answers: in front of Redis, and in front of Letta."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Coroutine
from typing import Any

CHUNK = 65_536
_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: the connection is reset, not closed."""


class Proxy:
    """One port in front of another on this machine."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.target_port = target_port
        self.bytes_per_second: float | None = None
        self.refuses = False
        """New connections are reset as soon as they are made."""
        self.answers_to_lose = 0
        """So many answers are cut off with their connection: what was asked has been done."""
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reset(self) -> int:
        """Resets every open connection; how many ends there were."""
        number = len(self._writers)
        for writer in list(self._writers):
            _reset(writer)
        return number

    def stall(self) -> None:
        """Nothing flows; connections stay open and new ones are made."""
        self._flowing.clear()

    def mend(self) -> None:
        """All is well again."""
        self.refuses = False
        self.bytes_per_second = None
        self.answers_to_lose = 0
        self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            _reset(writer)
            return
        try:
            upstream, onward = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            _reset(writer)
            return
        self._begin(self._pump(reader, onward, writer, answers=False))
        self._begin(self._pump(upstream, writer, onward, answers=True))

    def _begin(self, pumping: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(pumping)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, other: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(CHUNK):
                    await self._flowing.wait()
                    if answers and self.answers_to_lose > 0:
                        self.answers_to_lose -= 1
                        _reset(writer)
                        break
                    if self.bytes_per_second:
                        await asyncio.sleep(len(data) / self.bytes_per_second)
                    writer.write(data)
                    await writer.drain()
        finally:
            self._writers.discard(writer)
            for one in (writer, other):
                with contextlib.suppress(OSError, RuntimeError):
                    one.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    own = writer.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    writer.transport.abort()
