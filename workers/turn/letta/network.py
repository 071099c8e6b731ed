"""What a broken connection proves: whether anything of the request can have reached the server."""

import json

import aiohttp
import httpx
import letta_client

from schemas.outcome import Failed, FateUnknown, Trouble
from workers.turn.letta.words import words

TROUBLE = (
    letta_client.APIError,
    httpx.HTTPError,
    httpx.StreamError,
    httpx.InvalidURL,
    aiohttp.ClientError,
    OSError,
    ValueError,
)
"""Everything a call through the SDK was seen to raise. ValueError: a body or a line that is not JSON."""

_BEFORE_SENDING = (
    # Refused, unreachable, DNS, TLS handshake and certificate are all kinds of ClientConnectorError.
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
    aiohttp.ClientHttpProxyError,
)
_BEFORE_SENDING_BY_HTTPX = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


def nothing_was_sent(error: BaseException) -> bool:
    """Whether the request certainly never left.

    On the aiohttp transport the httpx and SDK classes say nothing: refused, reset after sending and "server
    disconnected" all come out as APITimeoutError from httpx.ConnectTimeout (measured). Only aiohttp's own
    exception, at the root, tells them apart; httpx' classes count where no aiohttp exception is behind them.
    """
    by_httpx = False
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, aiohttp.ClientError):
            return isinstance(cause, _BEFORE_SENDING)
        by_httpx = by_httpx or isinstance(cause, _BEFORE_SENDING_BY_HTTPX)
        cause = cause.__cause__
    return by_httpx


def broken(error: BaseException, run_id: str | None = None) -> Failed | FateUnknown:
    """The outcome of a call whose connection failed."""
    if run_id is None and nothing_was_sent(error):
        return Failed(f"not sent: {_named(error)}", counts=False, trouble=Trouble.AWAY)
    return FateUnknown(f"cut: {_named(error)}", run_id)


def _named(error: BaseException) -> str:
    """The root cause by class and, where that is safe, its text: a parser's error quotes what it read."""
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    name = type(root).__name__
    if isinstance(root, json.JSONDecodeError | UnicodeDecodeError):
        return f"{name}: the answer is not JSON"
    if isinstance(root, OSError | aiohttp.ClientConnectionError | aiohttp.ClientPayloadError) and str(root):
        return words(f"{name}: {root}")
    return name
