"""The `postroom` command as a person runs it, against a `postroom up` in a folder of its own."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from console.main import main

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-c", "from console.main import main; main()")


@dataclass(frozen=True, slots=True)
class Ran:
    """How one command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.out, self.err
        return json.loads(self.out)


class Up:
    """One `postroom up` process in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "up.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        known = {name: value for name, value in os.environ.items() if not name.startswith(("POSTROOM_", "LETTA_"))}
        return {**known, "POSTROOM_HOME": str(self.folder / "home"), "PYTHONPATH": str(ROOT)}

    def start(self) -> dict[str, Any]:
        """Starts it; answers with what it says when it is ready."""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "up", "--json"], env=self.environment, cwd=self.folder, stdout=subprocess.PIPE, stderr=log
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        said: dict[str, Any] = json.loads(line)
        return said

    def stop(self) -> int:
        """Asks for the end, as Ctrl-C does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        assert self.process.stdout is not None
        with self.process.stdout:
            return self.process.wait(30)


class Cli:
    """Runs commands in this process, in the folder of an `up`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        for name in [name for name in os.environ if name.startswith(("POSTROOM_", "LETTA_"))]:
            monkeypatch.delenv(name)
        monkeypatch.chdir(folder)
        self.set(POSTROOM_HOME=str(folder / "home"))

    def set(self, **variables: str) -> None:
        for name, value in variables.items():
            self._monkeypatch.setenv(name, value)

    def __call__(self, *arguments: str, stdin: bytes = b"") -> Ran:
        self._monkeypatch.setattr(sys, "argv", ["postroom", *arguments])
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        out, err, code = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as end:
                code = int(end.code or 0)
        return Ran(code, out.getvalue(), err.getvalue())

    def wait_for(self, *arguments: str, state: str) -> Any:
        """The one message of a listing, once it is in that state."""
        deadline = time.monotonic() + 10
        while True:
            found = [one for one in self(*arguments, "--json").json if one["state"] == state]
            if found:
                return found[0]
            assert time.monotonic() < deadline, f"no {state} message"
