"""A master, two replicas and three sentinels of our own on loopback, each ended by its process id."""

import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import redis

from tests.support.redis_server import RedisServer, free_port

SERVICE = "postroom"
DOWN_AFTER_MS = 500
FAILOVER_TIMEOUT_MS = 3_000
PAUSE_MS = 4_000
KEEPING = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "2", "--repl-diskless-sync-delay", "0")
"""A master that has lost its replicas confirms no more writes."""


@dataclass
class Sentinel:
    """One sentinel process on its own port and configuration file."""

    binary: str
    master_port: int
    port: int = field(default_factory=free_port)
    directory: str = field(default_factory=lambda: tempfile.mkdtemp(prefix="postroom-sentinel-"))
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        configuration = Path(self.directory) / "sentinel.conf"
        lines = (
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self.directory}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.master_port} 2",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} {FAILOVER_TIMEOUT_MS}",
            f"sentinel parallel-syncs {SERVICE} 2",
        )
        configuration.write_text("\n".join(lines) + "\n")
        self.process = subprocess.Popen(
            [self.binary, str(configuration), "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def ask(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=2)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(10)


class Quorum:
    """All of them. A context manager: ready when it is entered, gone when it is left."""

    def __init__(self, binary: str, *, keeping: tuple[str, ...] = KEEPING) -> None:
        master = RedisServer(binary, extra=keeping)
        following = ("--replicaof", "127.0.0.1", str(master.port), *keeping)
        self.servers = [master, *(RedisServer(binary, extra=following) for _ in range(2))]
        self.sentinels = [Sentinel(binary, master.port) for _ in range(3)]

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{one.port}' for one in self.sentinels)}/{SERVICE}/0"

    def __enter__(self) -> Self:
        try:
            for server in self.servers:
                server.start()
            for sentinel in self.sentinels:
                sentinel.start()
            _until(self._is_settled)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        for sentinel in self.sentinels:
            sentinel.stop()
        for server in self.servers:
            server.stop()

    def master(self) -> RedisServer:
        """By what the servers say of themselves: the one whom another follows."""
        ports = [one["master_port"] for one in map(_role_of, self.servers) if one.get("master_link_status") == "up"]
        return next(server for server in self.servers if server.port in ports)

    def replicas(self) -> list[RedisServer]:
        return [server for server in self.servers if server is not self.master()]

    def pause_and_fail_over(self) -> None:
        """As an operator does it who wants to lose nothing: no writes while the sentinels choose and tell everybody."""
        with redis.Redis(port=self.master().port) as asked:
            asked.execute_command("CLIENT", "PAUSE", PAUSE_MS, "WRITE")
        self.fail_over()

    def fail_over(self) -> None:
        """With every process well, and writes going on."""
        with self.sentinels[0].ask() as asked:
            asked.execute_command("SENTINEL FAILOVER", SERVICE)

    def wait_for_another_than(self, former: RedisServer) -> float:
        """Until another server says that it is the master, and the former one no more; when that was (monotonic)."""
        others = [server for server in self.servers if server is not former]
        _until(lambda: any(_role_of(server).get("role") == "master" for server in others))
        _until(lambda: _role_of(former).get("role") != "master")
        return time.monotonic()

    def _is_settled(self) -> bool:
        if _role_of(self.servers[0]).get("connected_slaves") != 2:
            return False
        return all(
            state["num-slaves"] == 2 and state["num-other-sentinels"] == 2 for state in map(_state_of, self.sentinels)
        )


def _role_of(server: RedisServer) -> dict[str, Any]:
    try:
        with redis.Redis(port=server.port, socket_timeout=0.5, socket_connect_timeout=0.5) as asked:
            found: dict[str, Any] = asked.info("replication")
    except (redis.RedisError, OSError):
        return {}
    return found


def _state_of(sentinel: Sentinel) -> dict[str, Any]:
    try:
        with sentinel.ask() as asked:
            state: dict[str, Any] = asked.sentinel_master(SERVICE)
    except (redis.RedisError, OSError):
        return {"num-slaves": 0, "num-other-sentinels": 0}
    return state


def _until(look: Any, within: float = 30) -> None:
    over_at = time.monotonic() + within
    while not look():
        assert time.monotonic() < over_at, f"the quorum was not there within {within:g} s"
        time.sleep(0.02)
