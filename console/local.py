"""The local installation: where `postroom up` keeps its Redis, and how the other commands find it.

A lock on a file, held as long as `up` lives, tells the living from the dead: a process id may be another's by now.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, ValidationError

from workers.errors import ConfigurationError, RefusedError

LOCK_PATIENCE_SECONDS = 1.0
"""A reader holds the lock for an instant; a starter waits as long as that may take."""


class Endpoints(BaseModel):
    """The addresses of a running `up`. Only of its embedded parts: what was given by setting may be secret."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    pid: int
    redis_url: str | None = None
    letta_base_url: str | None = None


@dataclass(frozen=True, slots=True)
class Home:
    """One folder, `.postroom` unless POSTROOM_HOME says otherwise."""

    path: Path

    @property
    def redis_directory(self) -> Path:
        """The data of the embedded Redis."""
        return self.path / "redis"

    @property
    def endpoints_file(self) -> Path:
        """Where the addresses stand."""
        return self.path / "endpoints.json"

    def running(self) -> Endpoints | None:
        """The addresses of a living `up`, or None."""
        found = self.recorded()
        return found if found is not None and self._is_locked() else None

    def recorded(self) -> Endpoints | None:
        """What the file says, whether or not its writer still lives."""
        try:
            return Endpoints.model_validate_json(self.endpoints_file.read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValidationError):
            return None

    def why_not(self) -> str:
        """Why `running` found nothing, with what to do."""
        found = self.recorded()
        if found is None:
            return f"no `postroom up` runs in this folder ({self.path})"
        return f"the `postroom up` of {self.path} (process {found.pid}) has ended"

    def write(self, endpoints: Endpoints) -> None:
        """Tells the addresses, all at once."""
        temporary = self.endpoints_file.with_suffix(".tmp")
        temporary.write_text(json.dumps(endpoints.model_dump()) + "\n")
        temporary.replace(self.endpoints_file)

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Holds the folder: one `up` at a time.

        Raises:
            RefusedError: another one runs here.
            ConfigurationError: the folder cannot be written.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            # What lies here are people's messages, never a repository's business.
            (self.path / ".gitignore").write_text("*\n")
            lock = self._lock_file().open("w")
        except OSError as error:
            raise ConfigurationError(f"POSTROOM_HOME: {self.path} cannot be written: {error.strerror}") from None
        with lock:
            self._lock(lock)
            try:
                yield
            finally:
                self.endpoints_file.unlink(missing_ok=True)

    def _lock(self, lock: IO[str]) -> None:
        deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    other = self.recorded()
                    who = f"process {other.pid}" if other else "another process"
                    raise RefusedError(
                        f"is running already ({who}); stop it first, or set POSTROOM_HOME to another folder",
                        where=f"a postroom of {self.path}",
                    ) from None
                time.sleep(0.02)
            else:
                return

    def _is_locked(self) -> bool:
        try:
            with self._lock_file().open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    def _lock_file(self) -> Path:
        return self.path / "lock"


def here(pid: int | None = None, *, redis_url: str | None, letta_base_url: str | None) -> Endpoints:
    """The endpoints of this process."""
    return Endpoints(pid=pid or os.getpid(), redis_url=redis_url, letta_base_url=letta_base_url)
