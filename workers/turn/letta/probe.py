"""Asks a server what it can do, by questions that cannot begin a turn."""

import asyncio
from http import HTTPStatus

import letta_client
from letta_client import AsyncLetta

from workers.clock import Clock
from workers.errors import LettaUnavailableError
from workers.turn.letta.classify import answer_of
from workers.turn.letta.contract import Abilities
from workers.turn.letta.network import TROUBLE, broken
from workers.turn.letta.words import words

REMEMBERED_SECONDS = 60.0
_NOBODY = "run-00000000-0000-4000-8000-000000000000"
"""A well-formed run id that no server gives out."""


class Probe:
    """What one server can do, asked once in a while."""

    def __init__(self, client: AsyncLetta, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._known: Abilities | None = None
        self._asked_at = 0.0
        self._one_at_a_time = asyncio.Lock()

    async def abilities(self) -> Abilities:
        """What the server can do; at most 60 s old, and asked again after `forget`.

        Raises:
            LettaUnavailableError: the server cannot be reached, or refuses our credential.
        """
        async with self._one_at_a_time:
            if self._known is None or self._clock.monotonic() - self._asked_at > REMEMBERED_SECONDS:
                try:
                    self._known = await self._ask()
                except TROUBLE as error:
                    self.forget()
                    raise unavailable(error) from error
                self._asked_at = self._clock.monotonic()
            return self._known

    def forget(self) -> None:
        """The server was away: what comes back may be another."""
        self._known = None

    async def _ask(self) -> Abilities:
        version = await self._version()
        joins = await self._joins()
        return Abilities(
            joins=joins,
            lists_runs=await self._lists_runs(),
            # The conversation lock and the joining of calls are the same Redis (LETTA.md section 3).
            locks=joins,
            version=version,
            simulated="sandbox" in version.lower(),
        )

    async def _version(self) -> str:
        try:
            return (await self._client.health()).version or "unknown"
        except letta_client.NotFoundError:
            return "unknown"

    async def _joins(self) -> bool:
        """Asks to resume a run that does not exist. Measured: with Redis 404 in 20 ms, without it 503.

        By otid the same question takes the server 1.8 s: it waits for the call that would name it.
        """
        try:
            stream = await self._client.conversations.messages.stream("default", run_id=_NOBODY)
        except letta_client.APIStatusError as error:
            if error.status_code == HTTPStatus.NOT_FOUND:
                return not answer_of(error).has_no_route
            if error.status_code in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.METHOD_NOT_ALLOWED}:
                return False
            raise
        await stream.close()
        return True

    async def _lists_runs(self) -> bool:
        try:
            await self._client.runs.list(limit=1)
        except letta_client.NotFoundError:
            return False
        return True


def unavailable(error: Exception) -> LettaUnavailableError:
    """The same trouble in our tree, in the server's words."""
    if isinstance(error, letta_client.APIStatusError):
        detail = answer_of(error).detail
        said = f"{error.status_code} {words(detail if isinstance(detail, str) else '')}".strip()
        return LettaUnavailableError(said, answered=error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR)
    return LettaUnavailableError(broken(error).detail)
