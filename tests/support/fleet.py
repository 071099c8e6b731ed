"""Postroom as real processes, the way the Procfile runs them, beside a sandbox Letta in a process of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.redis_server import RedisServer, free_port


@dataclass
class Fleet:
    """Starts and kills services by name; everything is ended by its process id."""

    server: RedisServer
    folder: Path
    letta_port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def turn_log(self) -> Path:
        return self.folder / "turns.jsonl"

    @property
    def environment(self) -> dict[str, str]:
        own = {
            "POSTROOM_REDIS_URL": self.server.url,
            "LETTA_BASE_URL": f"http://127.0.0.1:{self.letta_port}",
            "POSTROOM_ACCEPT_LOSS": "true",
            "POSTROOM_BACKOFF_BASE_SECONDS": "0.1",
            "POSTROOM_HOME": str(self.folder / "home"),
            "POSTROOM_LOG_FORMAT": "json",
            **self.settings,
        }
        return {**os.environ, **own}

    def start(self, name: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """`environment` is this process's own, on top of the fleet's."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", "from console.main import main; main()", *arguments],
                env={**self.environment, **environment},
                stdout=log,
                stderr=log,
            )
        self.processes[name] = process
        return process

    def command(self, *arguments: str, within: float = 60) -> subprocess.CompletedProcess[str]:
        """Runs one command of the shell to its end."""
        return subprocess.run(
            [sys.executable, "-c", "from console.main import main; main()", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )

    def start_letta(self, mode: str = "joins") -> None:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "console.sandbox", "--port", str(self.letta_port), "--mode", mode),
                *("--turn-log", str(self.turn_log), "--seed-demo"),
            ],
            stdout=subprocess.PIPE,
        )
        self.processes["letta"] = process
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["base_url"]
        process.stdout.close()

    def start_all(self) -> None:
        self.start("dispatcher", "serve", "dispatcher")
        self.start_pool()

    def start_pool(self) -> None:
        self.start("pool", "serve", "pool", "express", "standard", "bulk")

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(60)

    def is_running(self, name: str) -> bool:
        return self.processes[name].poll() is None

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def turns(self) -> list[dict[str, Any]]:
        """The turns begun, as the sandbox logged them."""
        lines = self.turn_log.read_text().splitlines() if self.turn_log.exists() else []
        return [line for line in map(json.loads, lines) if line["event"] == "begun"]

    def requests(self) -> list[dict[str, Any]]:
        """The requests for turns that reached the sandbox, those that it refused among them."""
        lines = self.turn_log.read_text().splitlines() if self.turn_log.exists() else []
        return [line for line in map(json.loads, lines) if line["event"] == "request"]

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def fleet(server: RedisServer, folder: Path, **settings: str) -> Iterator[Fleet]:
    """A fleet with nothing started yet."""
    one = Fleet(server, folder, settings=settings)
    try:
        yield one
    finally:
        one.stop()
