"""The connection to a Letta server: one SDK client, set up once for all that this adapter needs of it.

The SDK's defaults would double turns and starve the fleet (LETTA.md section 5): it retries POST, follows
redirects with the credential in hand, and shares 100 connections. Each is set here and nowhere else.
"""

import ipaddress
import logging
from urllib.parse import urlsplit

import httpx
from letta_client import AsyncLetta, DefaultAioHttpClient

from workers.errors import ConfigurationError

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
"""For look-ups. A turn waits as long as its own deadline, see `turn_timeout`."""
POOL_SECONDS = 10.0
"""A call that finds no free connection for this long gives up before anything was sent."""
IDLE_SECONDS = 2.0
"""A server closes idle connections after a while (uvicorn: 5 s). A request written into one that is just
being closed has an unknown fate, so ours are dropped first."""
MAX_CONNECTIONS = 1_024
"""httpx-aiohttp hands this to aiohttp's connector; without it 100 calls run and the rest queue unseen."""


def connect(
    base_url: str,
    api_key: str | None = None,
    *,
    max_connections: int = MAX_CONNECTIONS,
    connect_seconds: float = CONNECT_SECONDS,
    read_seconds: float = READ_SECONDS,
    allow_insecure: bool = False,
) -> AsyncLetta:
    """A client for one server. Opens nothing yet; close it with `await client.close()`.

    `allow_insecure` lets the credential travel over plain http to another machine.

    Raises:
        ConfigurationError: the base URL is not one that may be used.
    """
    host = _checked_host(base_url, allow_insecure=allow_insecure)
    # The SDK writes whole request bodies to its log at DEBUG. Messages never go to a log.
    logging.getLogger("letta_client").setLevel(logging.INFO)
    timeout = httpx.Timeout(connect=connect_seconds, read=read_seconds, write=None, pool=POOL_SECONDS)
    client = AsyncLetta(
        base_url=base_url,
        api_key=api_key,
        max_retries=0,
        # Given although the http client has it too: without it the SDK takes the http client's own.
        timeout=timeout,
        http_client=DefaultAioHttpClient(
            timeout=timeout,
            limits=httpx.Limits(max_connections=max_connections, keepalive_expiry=IDLE_SECONDS),
            follow_redirects=False,
            # A proxy from the environment is for the world outside, never for this machine.
            trust_env=not _is_loopback(host),
        ),
    )
    # Without a key the SDK takes one from the environment and would show it to whatever server this is.
    client.api_key = api_key
    return client


def turn_timeout(client: AsyncLetta) -> httpx.Timeout:
    """The client's limits without the one on silence, because a turn is cut by its total deadline.

    A limit per read would end slow turns that are well and never end a stream that only pings
    (LETTA.md section 3).
    """
    own = httpx.Timeout(client.timeout)
    return httpx.Timeout(connect=own.connect, read=None, write=own.write, pool=own.pool)


def _checked_host(base_url: str, *, allow_insecure: bool) -> str:
    """The host name of a base URL that may be used. Never repeats the URL: it may hold a secret."""
    try:
        parts = urlsplit(base_url)
        host, user, _ = parts.hostname, parts.username, parts.port
    except ValueError as error:
        raise ConfigurationError("LETTA_BASE_URL: expected an http(s) URL, got one that has no meaning") from error
    if parts.scheme not in {"http", "https"} or not host:
        raise ConfigurationError(f"LETTA_BASE_URL: expected http(s)://host, got scheme {parts.scheme!r}")
    if user is not None or parts.query or parts.fragment:
        raise ConfigurationError("LETTA_BASE_URL: expected no user, query or fragment; the key goes in LETTA_API_KEY")
    if parts.scheme == "http" and not allow_insecure and not _is_loopback(host):
        raise ConfigurationError(
            f"LETTA_BASE_URL: expected https for {host}, got http: the key and every message could be read "
            "on the way (allow_insecure permits it)",
        )
    return host


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
