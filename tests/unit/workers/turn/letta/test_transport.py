"""The client as it is set up: what it refuses, what it hides, and how many calls really overlap."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import letta_client
import pytest
from aiohttp import web

from workers.errors import ConfigurationError
from workers.turn.letta.transport import MAX_CONNECTIONS, connect, turn_timeout

OVERLAP = 320


@pytest.mark.parametrize(
    "url",
    [
        "",
        "letta.example.com",
        "ftp://letta.example.com",
        "file:///etc/passwd",
        "http://",
        "https://user:secret-of-mine@letta.example.com",
        "https://letta.example.com?key=secret-of-mine",
        "https://letta.example.com#secret-of-mine",
        "http://letta.example.com",
        "http://10.0.0.1:8283",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://[::1",
        "https://letta.example.com:port",
    ],
)
def test_a_base_url_that_may_not_be_used_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="LETTA_BASE_URL: expected") as caught:
        connect(url)
    assert "secret-of-mine" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8283", "http://localhost:8283", "http://[::1]:8283", "https://api.letta.com"]
)
async def test_https_and_this_machine_are_fine(url: str) -> None:
    await connect(url, "key").close()


async def test_plain_http_to_another_machine_has_to_be_asked_for() -> None:
    await connect("http://letta.internal:8283", "key", allow_insecure=True).close()


async def test_nothing_is_retried_and_every_limit_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETTA_API_KEY", "a-key-of-another-server")
    client = connect("http://127.0.0.1:1", connect_seconds=1.5, read_seconds=2.5)
    assert client.max_retries == 0
    assert client.api_key is None
    timeout = client.timeout
    assert not isinstance(timeout, float | int | None)
    assert (timeout.connect, timeout.read) == (1.5, 2.5)
    turn = turn_timeout(client)
    assert (turn.connect, turn.read) == (1.5, None)
    assert "secret" not in repr(connect("http://127.0.0.1:1", "secret"))
    await client.close()


async def test_the_key_travels_in_its_header_and_follows_no_redirect() -> None:
    seen: list[tuple[str, str | None]] = []

    async def redirect(request: web.Request) -> web.Response:
        seen.append((request.path_qs, request.headers.get("Authorization")))
        raise web.HTTPTemporaryRedirect("/elsewhere")

    async with _serving(redirect) as url:
        client = connect(url, "secret")
        with pytest.raises(letta_client.APIStatusError) as caught:
            await client.health()
        await client.close()
    assert caught.value.status_code == 307
    assert seen == [("/v1/health/", "Bearer secret")]


async def test_hundreds_of_calls_overlap() -> None:
    """The default transport lets 100 through: the rest would wait inside, unseen by every limit of ours."""
    assert MAX_CONNECTIONS >= OVERLAP
    inside = 0
    everybody = asyncio.Event()

    async def wait_for_all(_: web.Request) -> web.Response:
        nonlocal inside
        inside += 1
        if inside == OVERLAP:
            everybody.set()
        await everybody.wait()
        return web.json_response({"version": "1", "status": "ok"})

    async with _serving(wait_for_all) as url:
        client = connect(url)
        async with asyncio.timeout(20):
            answers = await asyncio.gather(*(client.health() for _ in range(OVERLAP)))
        await client.close()
    assert {answer.status for answer in answers} == {"ok"}


@asynccontextmanager
async def _serving(handler: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[str]:
    """A server that answers every path with one handler."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1_024).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
