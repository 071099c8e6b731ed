"""The rig's proxy does to connections what its faults say."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.chaos.proxy import Proxy


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """In front of a server that answers each line with itself."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    one = Proxy(server.sockets[0].getsockname()[1])
    await one.start()
    yield one
    await one.stop()
    server.close()


async def ask(proxy: Proxy, text: bytes = b"hello\n", within: float = 5) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        async with asyncio.timeout(within):
            writer.write(text)
            return await reader.readline()
    finally:
        writer.close()


async def test_it_hands_on_both_ways(proxy: Proxy) -> None:
    assert await ask(proxy) == b"hello\n"


async def test_stalled_it_keeps_everything_until_it_is_mended(proxy: Proxy) -> None:
    proxy.stall()
    with pytest.raises(TimeoutError):
        await ask(proxy, within=0.2)
    proxy.mend()

    assert await ask(proxy) == b"hello\n"


async def test_open_connections_are_reset_and_new_ones_refused(proxy: Proxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"one\n")
    assert await reader.readline() == b"one\n"
    proxy.refuses = True

    assert proxy.reset() == 2
    with pytest.raises(ConnectionResetError):
        await reader.readline()
    writer.close()
    with pytest.raises(ConnectionError):
        assert await ask(proxy) == b"never"


async def test_an_answer_is_lost_after_the_request_went_through(proxy: Proxy) -> None:
    proxy.answers_to_lose = 1
    with pytest.raises(ConnectionResetError):
        await ask(proxy)

    assert await ask(proxy) == b"hello\n"


async def test_slowed_it_takes_as_long_as_that(proxy: Proxy) -> None:
    proxy.bytes_per_second = 100
    began = time.monotonic()
    await ask(proxy, b"0123456789\n")

    assert time.monotonic() - began >= 0.2
