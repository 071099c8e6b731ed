"""Redis behind Sentinel: every connection goes to whoever is the master now, and that server must say so itself.

`redis+sentinel://[[user]:password@]host[:port],host[:port]/service[/db]`, or `rediss+sentinel://` with TLS to all of
them. User, password and database are those of Redis; sentinels that want a password of their own get it as
`?sentinel_password=` (and `sentinel_username=`).
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.connection import parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

SCHEMES = {"redis+sentinel://": "redis://", "rediss+sentinel://": "rediss://"}
DEFAULT_PORT = 26_379
ASK_SECONDS = 1.0
"""How long a sentinel has for its answer: one that hangs holds up every new connection for so long, not longer."""
ROLE_SECONDS = 2.0

_NOT_THE_MASTER = re.compile(r"\b(READONLY|NOREPLICAS|MASTERDOWN)\b")
"""What a server says that was the master, or is cut off from its replicas, also inside the text of a script's error."""

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """What a Sentinel URL says."""

    sentinels: tuple[Address, ...]
    service: str
    options: Mapping[str, Any]
    """How to speak to the master: user, password, database, TLS."""
    sentinel_options: Mapping[str, Any]
    """How to speak to a sentinel."""


def is_sentinel(url: str) -> bool:
    """Whether the URL names sentinels and a service, not a server."""
    return url.startswith(tuple(SCHEMES))


def whereabouts(url: str) -> Whereabouts:
    """Reads a Sentinel URL.

    Raises:
        ValueError: it cannot be read.
    """
    scheme = next(plain for ours, plain in SCHEMES.items() if url.startswith(ours))
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    sentinels = tuple(_address(host) for host in hosts.split(","))
    if not service or (database and not database.isdigit()):
        raise ValueError("no service, or no number of a database")
    asked = parse_qs(parts.query, strict_parsing=bool(parts.query))
    own = {name: asked.pop(f"sentinel_{name}")[0] for name in ("username", "password") if f"sentinel_{name}" in asked}
    options = dict(parse_url(f"{scheme}{credentials}{at}sentinels/{database or 0}?{urlencode(asked, doseq=True)}"))
    options.pop("host")
    secure = options.pop("connection_class", None) is SSLConnection
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    if secure:
        options["connection_class"], tls["ssl"] = _SecureMasterConnection, True
    return Whereabouts(sentinels, service, options, {**tls, **own})


def _address(host: str) -> Address:
    parts = urlsplit(f"//{host}")
    if not parts.hostname or "@" in host:
        raise ValueError("a sentinel without a name")
    return parts.hostname, parts.port or DEFAULT_PORT


def master_pool(url: str, **options: Any) -> BlockingConnectionPool:
    """A pool of connections to the master that the sentinels name.

    Raises:
        ValueError: the URL cannot be read.
    """
    found = whereabouts(url)
    keepalive = {name: value for name, value in options.items() if name.startswith("socket_keepalive")}
    masters = Masters(found, keepalive)
    return _MasterPool(masters, **{"connection_class": _MasterConnection, **found.options, **options})


class Masters:
    """Asks the sentinels who the master is. Who asks at the same time shares one answer."""

    def __init__(self, where: Whereabouts, options: Mapping[str, Any]) -> None:
        self._service = where.service
        self._sentinels = [
            Redis(
                host=host,
                port=port,
                socket_timeout=ASK_SECONDS,
                socket_connect_timeout=ASK_SECONDS,
                **{**options, **where.sentinel_options},
            )
            for host, port in where.sentinels
        ]
        self._asking: asyncio.Task[Address] | None = None
        self.latest: Address | None = None
        """As it was when somebody last asked."""

    async def address(self) -> Address:
        """Where the master is now.

        Raises:
            redis.exceptions.ConnectionError: no sentinel answers, or they are choosing another master.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="sentinels")
            self._asking.add_done_callback(_heard)
        self.latest = await asyncio.shield(self._asking)
        return self.latest

    async def close(self) -> None:
        """Closes the connections to the sentinels."""
        for sentinel in self._sentinels:
            await sentinel.aclose()

    async def _ask(self) -> Address:
        asked = (_opinion(sentinel, self._service) for sentinel in self._sentinels)
        return newest_master(self._service, await asyncio.gather(*asked, return_exceptions=True))


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one sentinel says."""

    epoch: int
    """The failover it knows of: a higher one is a later one."""
    master: Address
    is_down: bool


async def _opinion(sentinel: Redis, service: str) -> Opinion:
    async with sentinel.pipeline(transaction=False) as pipe:
        pipe.sentinel_master(service)
        pipe.sentinel_get_master_addr_by_name(service)
        state, found = await pipe.execute()
    # In the middle of a failover the state still tells of the former master, the address of the next one.
    host, port = (part.decode() if isinstance(part, bytes) else str(part) for part in found)
    is_former = (host, int(port)) == (state["ip"], state["port"])
    return Opinion(
        int(state["config-epoch"]), (host, int(port)), is_former and (state["is_sdown"] or state["is_odown"])
    )


def newest_master(service: str, answers: Sequence[Opinion | BaseException]) -> Address:
    """The master by the latest failover that any sentinel knows of: one that was cut off may name a former one.

    Raises:
        redis.exceptions.ConnectionError: none answered, or all who know of the latest say that it is down.
    """
    known = [answer for answer in answers if isinstance(answer, Opinion)]
    if not known:
        said = ", ".join(sorted({_said(answer) for answer in answers if isinstance(answer, BaseException)}))
        raise RedisConnectionError(f"no sentinel tells of {service}: {said}")
    latest = max(one.epoch for one in known)
    up = [one.master for one in known if one.epoch == latest and not one.is_down]
    if not up:
        raise RedisConnectionError(f"the master of {service} is down, and the sentinels have chosen no other yet")
    return up[0]


def _said(error: BaseException) -> str:
    # A sentinel's own words name what is wrong (no such master, a password); an address that does not answer, too.
    return str(error) if isinstance(error, RedisError) else type(error).__name__


def _heard(asking: asyncio.Task[Address]) -> None:
    if not asking.cancelled():
        asking.exception()


class _MasterConnection(Connection):  # type: ignore[misc]  # redis-py is read untyped
    """A connection that looks for its server anew whenever it connects."""

    masters: Masters

    def __init__(self, *, masters: Masters, **options: Any) -> None:
        self.masters = masters
        self.stale = False
        """Whether its server said that it is not the master, or not with its replicas."""
        super().__init__(**options)

    async def _connect(self) -> None:
        self.host, self.port = await self.masters.address()
        await super()._connect()

    async def on_connect(self) -> None:
        """As ever; then the server is asked whether it is the master: sentinels learn of it later than it does."""
        await super().on_connect()
        await self.send_command("ROLE", check_health=False)
        role = await self.read_response(timeout=ROLE_SECONDS)
        if role[0] not in {b"master", "master"}:
            raise RedisConnectionError(f"{self.host}:{self.port} is not the master any more, or not yet")
        self.stale = False

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        """Takes note of a server that is not the master any more; the connection is not used again then."""
        try:
            answer = await super().read_response(*arguments, **options)
        except ResponseError as error:
            self._heed(error)
            raise
        if isinstance(answer, list):
            for one in answer:
                self._heed(one)
        return answer

    async def leave_former_master(self) -> None:
        """Before it is used again: off, where the master is another one now."""
        if self.is_connected and (self.stale or (self.host, self.port) != self.masters.latest):
            with suppress(RedisError, OSError):
                await self.disconnect(nowait=True)

    def _heed(self, answer: object) -> None:
        if isinstance(answer, ReadOnlyError) or (
            isinstance(answer, ResponseError) and _NOT_THE_MASTER.search(str(answer))
        ):
            self.stale = True


class _SecureMasterConnection(_MasterConnection, SSLConnection):  # type: ignore[misc]  # the same
    """The same over TLS."""


class _MasterPool(BlockingConnectionPool):  # type: ignore[misc]  # the same
    """Hands out connections to the present master only: a former one that hangs would cost each its timeout."""

    def __init__(self, masters: Masters, **options: Any) -> None:
        super().__init__(masters=masters, **options)
        self._masters = masters

    async def ensure_connection(self, connection: _MasterConnection) -> None:
        await connection.leave_former_master()
        await super().ensure_connection(connection)

    async def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001, FBT002  # redis-py's signature
        await super().disconnect(inuse_connections)
        await self._masters.close()
