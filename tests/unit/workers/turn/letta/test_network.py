"""Whether anything was sent, told from what really comes out of the transport for each kind of break.

Measured, not assumed: on the aiohttp transport "refused" and "reset after the request" are the same httpx and
SDK exception. Each case here is a server that breaks the connection at one point.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import aiohttp
import httpx
import letta_client
import pytest
from letta_client import AsyncLetta

from schemas.outcome import Failed, FateUnknown, Trouble
from workers.turn.letta.network import TROUBLE, broken
from workers.turn.letta.transport import connect

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


async def read_request(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    await reader.readexactly(length)


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends the connection with RST instead of FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def close_at_once(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def reset_at_once(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reset(writer)


async def reset_while_sending(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(100)
    reset(writer)


async def close_after_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.close()


async def reset_after_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    reset(writer)


async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    await reader.read()
    writer.close()


def answer_with(*pieces: bytes) -> Handler:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for piece in pieces:
            writer.write(piece)
        await writer.drain()
        writer.close()

    return answer


@dataclass
class Broken:
    """A server that breaks connections in one way."""

    handler: Handler
    body: str = "x"
    stream: bool = False


SENT = {
    "closed at once": Broken(close_at_once),
    "reset at once": Broken(reset_at_once),
    "reset at once, large body": Broken(reset_at_once, body="x" * 3_000_000),
    "reset while sending": Broken(reset_while_sending, body="x" * 3_000_000),
    "closed after the request": Broken(close_after_request),
    "reset after the request": Broken(reset_after_request),
    "never answered": Broken(never_answer),
    "body cut": Broken(answer_with(HEAD, b'content-length: 100\r\n\r\n{"a":')),
    "body is not JSON": Broken(answer_with(HEAD, b'content-length: 5\r\n\r\n{"a":')),
    "not HTTP": Broken(answer_with(b"good morning\r\n\r\n")),
    "stream cut": Broken(answer_with(EVENTS, b'10\r\ndata: {"a": 1}\n\n\r\n'), stream=True),
    "stream of nonsense": Broken(answer_with(EVENTS, b"c\r\ndata: {oops\n\n\r\n0\r\n\r\n"), stream=True),
}


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    tasks: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(one(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def trouble_of(client: AsyncLetta, *, body: str = "x", stream: bool = False) -> Exception:
    """What one call raised."""
    try:
        if stream:
            events = await client.conversations.messages.create("conv-1", messages=[{"role": "user", "content": body}])
            _ = [event async for event in events]
        else:
            await client.agents.messages.create("agent-1", messages=[{"role": "user", "content": body}])
    except TROUBLE as error:
        return error
    finally:
        await client.close()
    raise AssertionError("the call went through")


@pytest.mark.parametrize("case", SENT)
async def test_what_may_have_arrived_has_an_unknown_fate(case: str) -> None:
    server = SENT[case]
    async with serving(server.handler) as port:
        client = connect(f"http://127.0.0.1:{port}", "key", read_seconds=0.5)
        error = await trouble_of(client, body=server.body, stream=server.stream)
    outcome = broken(error)
    assert isinstance(outcome, FateUnknown), outcome
    assert "oops" not in outcome.detail


async def test_refused_was_not_sent() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        error = await trouble_of(connect(f"http://127.0.0.1:{held.getsockname()[1]}"))
    assert _not_sent(broken(error))


async def test_an_unknown_host_was_not_sent_anything() -> None:
    assert _not_sent(broken(await trouble_of(connect("https://no-such-host.invalid"))))


async def test_a_handshake_that_fails_is_before_the_request() -> None:
    async with serving(close_at_once) as port:
        assert _not_sent(broken(await trouble_of(connect(f"https://127.0.0.1:{port}"))))


async def test_a_handshake_that_never_ends_is_before_the_request() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with serving(silent) as port:
        client = connect(f"https://127.0.0.1:{port}", connect_seconds=0.3)
        assert _not_sent(broken(await trouble_of(client)))


@pytest.mark.parametrize(
    "error",
    [httpx.ConnectError("no"), httpx.ConnectTimeout("no"), httpx.PoolTimeout("no"), httpx.UnsupportedProtocol("no")],
)
def test_the_other_transport_is_believed_by_its_own_classes(error: httpx.HTTPError) -> None:
    wrapped = letta_client.APITimeoutError(request=httpx.Request("POST", "http://letta"))
    wrapped.__cause__ = error
    assert _not_sent(broken(wrapped))


def test_the_root_decides_where_the_classes_above_it_mislead() -> None:
    misleading = httpx.ConnectTimeout("Server disconnected")
    misleading.__cause__ = aiohttp.ServerDisconnectedError()
    wrapped = letta_client.APITimeoutError(request=httpx.Request("POST", "http://letta"))
    wrapped.__cause__ = misleading
    assert isinstance(broken(wrapped), FateUnknown)


def test_a_run_that_was_named_was_sent() -> None:
    assert broken(httpx.ConnectError("no"), "run-1") == FateUnknown("cut: ConnectError", "run-1")


def _not_sent(outcome: Failed | FateUnknown) -> bool:
    return isinstance(outcome, Failed) and not outcome.counts and outcome.trouble is Trouble.AWAY
