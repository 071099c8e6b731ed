"""What a Letta server keeps in Redis: conversation locks and the map from otid to run.

Faithful in its weaknesses: the key of the map is the otids alone (not the agent, not the text), a lock is
deleted by name whoever holds it, and neither is renewed.
"""

import hashlib
from collections.abc import Sequence
from uuid import uuid4

from console.sandbox.clock import Clock

LOCK_TTL_SECONDS = 300
OTID_TTL_SECONDS = 10_800


def request_token(otids: Sequence[str]) -> str:
    """One token for all otids of a request, as the server derives it."""
    if not otids:
        return str(uuid4())
    return hashlib.sha256("|".join(otids).encode()).hexdigest()[:16]


class RedisKeys:
    """Locks, otid map and the last run of each agent."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._locks: dict[str, tuple[str, float]] = {}
        self._runs: dict[str, tuple[str, float]] = {}
        self.last_run: dict[str, str] = {}

    def acquire(self, key: str, token: str) -> str | None:
        """Take the lock; the answer is None, or the token of whoever holds it."""
        held = self._locks.get(key)
        if held is not None and held[1] > self._clock.now():
            return held[0]
        self._locks[key] = (token, self._clock.now() + LOCK_TTL_SECONDS)
        return None

    def release(self, key: str) -> None:
        """Delete the lock, whoever holds it."""
        self._locks.pop(key, None)

    def remember(self, otids: Sequence[str], run_id: str) -> None:
        """Map the request's token and each otid to the run."""
        ends = self._clock.now() + OTID_TTL_SECONDS
        for name in (request_token(otids), *otids):
            self._runs[name] = (run_id, ends)

    def run_of(self, name: str) -> str | None:
        """The run of a token or an otid, while the mapping lives."""
        entry = self._runs.get(name)
        if entry is None:
            return None
        if entry[1] <= self._clock.now():
            del self._runs[name]
            return None
        return entry[0]

    def forget_runs(self, run_ids: frozenset[str]) -> None:
        """Drop every mapping to these runs."""
        self._runs = {name: entry for name, entry in self._runs.items() if entry[0] not in run_ids}
        self.last_run = {agent: run for agent, run in self.last_run.items() if run not in run_ids}
