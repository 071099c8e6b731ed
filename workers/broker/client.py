"""The connection to Redis, with every timeout named (HAZARDS.md A3, S8, S17), and what it must be able to do."""

import asyncio
import re
import socket
from dataclasses import dataclass
from typing import TypeAlias

from redis.asyncio import BlockingConnectionPool, Redis, SSLConnection
from redis.exceptions import (
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from workers.broker.sentinel import is_sentinel, master_pool
from workers.errors import ConfigurationError, UnsafeRedisError

BLOCK_SECONDS = 2.0
"""The longest blocking read. Below SOCKET_TIMEOUT_SECONDS, so that an answer is never thrown away (HAZARDS.md S8)."""
SOCKET_TIMEOUT_SECONDS = 5.0
CONNECT_TIMEOUT_SECONDS = 2.0
HEALTH_CHECK_SECONDS = 15
FLOOR = (6, 2, 0)

REDIS_AWAY: tuple[type[BaseException], ...] = (RedisError, OSError, asyncio.TimeoutError)
"""What a call may raise when Redis is gone, slow, full or restarting: wait, connect again, go on."""

_PASSING = (OutOfMemoryError, ReadOnlyError, NoScriptError, NoPermissionError)
_PASSING_WORDS = re.compile(
    r"\b(OOM|READONLY|LOADING|NOSCRIPT|NOPERM|NOAUTH|BUSY|MISCONF|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|NOREPLICAS|MOVED|ASK)\b"
)
"""Redis 6.2 tells of what stopped a script inside the text of one general error."""

Client: TypeAlias = Redis


def is_refused_for_good(error: BaseException) -> bool:
    """Whether Redis answered, and will answer the same however often it is asked: a key of another type, an error
    in a script. Not what an operator or time mends: full, read-only, loading, failing over, forbidden.
    """
    if not isinstance(error, ResponseError) or isinstance(error, _PASSING):
        return False
    return _PASSING_WORDS.search(str(error)) is None


def connection_pool(url: str, *, max_connections: int = 64) -> BlockingConnectionPool:
    """A pool with timeouts, keepalive and, over TLS, the host name checked (HAZARDS.md A28).

    Raises:
        ConfigurationError: the URL cannot be read. It may hold a password, and is not quoted.
    """
    if not url.startswith(("redis://", "rediss://", "unix://")) and not is_sentinel(url):
        raise ConfigurationError("a Redis URL starts with redis://, rediss://, unix:// or redis+sentinel://")
    try:
        return _pool(url, max_connections)
    except ValueError:
        expected = (
            "redis+sentinel://[[user]:password@]host[:port],host[:port]/service[/db]"
            if is_sentinel(url)
            else "redis://[[user]:password@]host[:port][/db]"
        )
        escaped = "with /, @, # and ? in a password written as %2F and so on"
        raise ConfigurationError(f"the Redis URL cannot be read: expected {expected}, {escaped}") from None


def _pool(url: str, max_connections: int) -> BlockingConnectionPool:
    open_pool = master_pool if is_sentinel(url) else BlockingConnectionPool.from_url
    pool = open_pool(
        url,
        max_connections=max_connections,
        timeout=SOCKET_TIMEOUT_SECONDS,
        socket_timeout=SOCKET_TIMEOUT_SECONDS,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        health_check_interval=HEALTH_CHECK_SECONDS,
        decode_responses=False,
        **({} if url.startswith("unix:") else {"socket_keepalive": True, "socket_keepalive_options": _keepalive()}),
    )
    if issubclass(pool.connection_class, SSLConnection):
        pool.connection_kwargs["ssl_check_hostname"] = True
    return pool


def connect(url: str, *, max_connections: int = 64) -> Client:
    """A client over such a pool. Reads bytes: one bad byte must not spoil a batch (HAZARDS.md S10)."""
    return Redis(connection_pool=connection_pool(url, max_connections=max_connections))


async def close(client: Client) -> None:
    """Closes the client and its pool."""
    await client.aclose()
    await client.connection_pool.disconnect()


def _keepalive() -> dict[int, int]:
    names = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
    return {getattr(socket, name): value for name, value in names if hasattr(socket, name)}


@dataclass(frozen=True, slots=True)
class Durability:
    """What Redis says of itself. None where it does not tell (a managed Redis may hide its settings)."""

    version: tuple[int, ...]
    append_only: bool | None
    fsync: str | None
    eviction: str | None
    max_memory: int
    used_memory: int
    replicas: int = 0
    """Connected now."""
    min_replicas: int | None = None
    """So many must be near, or Redis refuses writes. 0: it never does. None: it does not tell."""

    @property
    def version_text(self) -> str:
        return ".".join(str(part) for part in self.version)

    def losses(self) -> list[str]:
        """Every way in which this Redis would lose accepted messages, as sentences; empty: none known."""
        found = []
        if self.append_only is False:
            found.append("appendonly is no: a restart loses every message (set appendonly yes)")
        if self.eviction not in {None, "noeviction"}:
            found.append(f"maxmemory-policy is {self.eviction}: a full Redis drops messages (set noeviction)")
        return found


async def durability(client: Client) -> Durability:
    """Asks Redis how it keeps what it is given."""
    server = await client.info("server")
    memory = await client.info("memory")
    persistence = await client.info("persistence")
    replication = await client.info("replication")
    min_replicas = await _config(client, "min-replicas-to-write")
    version = tuple(int(part) for part in str(server["redis_version"]).split(".")[:3] if part.isdigit())
    return Durability(
        version=version,
        append_only=bool(persistence["aof_enabled"]) if "aof_enabled" in persistence else None,
        fsync=await _config(client, "appendfsync"),
        eviction=str(memory["maxmemory_policy"]) if "maxmemory_policy" in memory else None,
        max_memory=int(memory.get("maxmemory", 0)),
        used_memory=int(memory.get("used_memory", 0)),
        replicas=int(replication.get("connected_slaves", 0)),
        min_replicas=int(min_replicas) if min_replicas is not None else None,
    )


async def _config(client: Client, name: str) -> str | None:
    try:
        answer = await client.config_get(name)
    except ResponseError:
        return None
    value = answer.get(name, answer.get(name.encode()))
    return value.decode() if isinstance(value, bytes) else value


async def require_durable(client: Client, *, accept_loss: bool) -> Durability:
    """Refuses a Redis that would lose messages, unless told that loss is acceptable.

    Raises:
        UnsafeRedisError: it would; the message names each setting and what it should be.
        ConfigurationError: the server is older than 6.2.
    """
    found = await durability(client)
    if found.version < FLOOR:
        raise ConfigurationError(f"Redis is {found.version_text}; expected 6.2 or newer")
    losses = found.losses()
    if losses and not accept_loss:
        raise UnsafeRedisError("; ".join(losses) + " (or set POSTROOM_ACCEPT_LOSS=true)")
    return found
