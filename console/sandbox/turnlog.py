"""The turn log: one line per request, per turn begun and per turn ended, on disk before the turn goes on.

It is the witness of "how many turns did the agent really have", so it must survive kill -9: each line is one
write to a descriptor opened for appending, without a buffer of ours in between.
"""

import hashlib
import json
import os
import time
from pathlib import Path


class TurnLog:
    """Appends JSON lines; without a path it does nothing."""

    def __init__(self, path: Path | None) -> None:
        self._fd = None if path is None else os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def request(self, agent_id: str, route: str, otid: str | None) -> None:
        """An HTTP request for a turn arrived (it may be refused, or join a run)."""
        if self._fd is not None:
            self._write({"event": "request", "agent": agent_id, "route": route, "otid": otid})

    def begun(  # noqa: PLR0917 - one line, its columns
        self,
        agent_id: str,
        agent_name: str,
        run_id: str,
        otid: str | None,
        conversation_id: str | None,
        content: str,
    ) -> None:
        """A turn of the agent began: this is the effect that must not happen twice."""
        if self._fd is not None:
            self._write(
                {
                    "event": "begun",
                    "agent": agent_id,
                    "agent_name": agent_name,
                    "run": run_id,
                    "otid": otid,
                    "conversation": conversation_id,
                    "content_sha256": hashlib.sha256(content.encode()).hexdigest(),
                    "content_head": content[:80],
                }
            )

    def ended(self, agent_id: str, run_id: str, otid: str | None, status: str) -> None:
        """A turn ended: completed, failed, cancelled, or orphaned when the simulated server died under it."""
        if self._fd is not None:
            self._write({"event": "ended", "agent": agent_id, "run": run_id, "otid": otid, "status": status})

    def close(self) -> None:
        """Close the descriptor; further lines are dropped."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _write(self, fields: dict[str, object]) -> None:
        line = json.dumps({"at": int(time.time() * 1000), **fields}, separators=(",", ":")) + "\n"
        if self._fd is not None:
            os.write(self._fd, line.encode())
