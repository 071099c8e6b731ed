"""The first adapter: a Letta server's REST API, through letta-client.

Two ways to run a turn. Where the server joins (Redis behind it), a background stream under the delivery's
otid: locked, joined and replayed by calling again. Elsewhere a plain stream, or one blocking call where there are
no runs, and looking before sending again. Streams name their run before the model answers, which is what a look
goes by. LETTA.md section 3 has the measurements.
"""

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import letta_client
from letta_client import AsyncLetta, AsyncStream

from schemas.agent import Agent, tenant_tag
from schemas.context import Context
from schemas.delivery import Cause
from schemas.ids import AgentId, is_agent_id
from schemas.outcome import Failed, FateUnknown, Outcome, Rejected, Trouble
from workers.clock import Clock
from workers.errors import LettaUnavailableError
from workers.turn.letta.classify import answer_of, from_exception
from workers.turn.letta.contract import Abilities, Call, Fate, RunNamed, StillRunning
from workers.turn.letta.fate import Search
from workers.turn.letta.network import TROUBLE
from workers.turn.letta.probe import Probe, unavailable
from workers.turn.letta.reading import Reading, StreamError, events_of, usage_of
from workers.turn.letta.transport import turn_timeout

_AWAKE_SECONDS = 5.0
"""A server that is well answers a cheap question at once; one that does not is asked again soon."""


class RestLetta:
    """A `LettaPort` over letta-client. Takes over the client and closes it.

    `settle_seconds`: how long to wait before "nothing of it is there" is believed, for a request that was
    on its way. `orphaned_seconds`: how long a run may show nothing before it counts as left behind by a
    server that died (LETTA.md section 4); a model may hang for ten minutes. `page_size`: agents a page (some
    6.7 kB each, parsed without a pause), and messages and runs.
    """

    def __init__(
        self,
        client: AsyncLetta,
        clock: Clock,
        *,
        settle_seconds: float = 2.0,
        orphaned_seconds: float = 900.0,
        page_size: int = 100,
    ) -> None:
        self._client = client
        self._clock = clock
        self._probe = Probe(client, clock)
        self._settle_seconds = settle_seconds
        self._orphaned_seconds = orphaned_seconds
        self._page_size = page_size

    async def abilities(self) -> Abilities:
        return await self._probe.abilities()

    async def awake(self) -> None:
        limit = asyncio.timeout(_AWAKE_SECONDS)
        self._probe.forget()
        try:
            async with limit:
                await self._probe.abilities()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise LettaUnavailableError(f"no answer within {_AWAKE_SECONDS:g} s") from error

    async def turn(self, context: Context, call: Call, run_named: RunNamed) -> Outcome:  # noqa: ARG002 - for adapters that send the tenant
        if not is_agent_id(call.agent):
            return Rejected(Cause.UNKNOWN_AGENT, "not an agent id")
        reading = Reading()
        limit = asyncio.timeout(call.deadline_seconds)
        try:
            async with limit:
                return await self._turn(call, run_named, reading)
        except TimeoutError:
            if not limit.expired():
                raise
            return FateUnknown(f"no end within {call.deadline_seconds:g} s", reading.run_id)

    async def look(self, context: Context, call: Call, run_id: str | None, opened_at_ms: int) -> Fate:  # noqa: ARG002
        search = Search(
            self._client,
            self._clock,
            call,
            opened_at_ms,
            settle_seconds=self._settle_seconds,
            orphaned_seconds=self._orphaned_seconds,
            page_size=self._page_size,
        )
        limit = asyncio.timeout(call.deadline_seconds)
        try:
            async with limit:
                return await search.fate(await self.abilities(), run_id)
        except TROUBLE as error:
            if not isinstance(error, TimeoutError):
                self._probe.forget()
                raise unavailable(error) from error
            if not limit.expired():
                raise
            if search.run_id is not None:
                return StillRunning(search.run_id)
            raise LettaUnavailableError(f"no answer within {call.deadline_seconds:g} s") from error

    async def agents(self, context: Context) -> AsyncIterator[Agent]:
        tag = tenant_tag(context.tenant)
        # Oldest first: an agent made meanwhile is appended to what is still to come.
        listed = self._client.agents.list(
            tags=[tag], match_all_tags=True, include=["agent.tags"], order="asc", limit=self._page_size
        )
        try:
            async for state in listed:
                agent = _agent(state)
                if agent is not None and agent.belongs_to(context.tenant):
                    yield agent
        except TROUBLE as error:
            self._probe.forget()
            raise unavailable(error) from error

    async def agent(self, context: Context, agent_id: AgentId) -> Agent | None:  # noqa: ARG002 - the caller checks the tag
        if not is_agent_id(agent_id):
            return None
        try:
            return _agent(await self._client.agents.retrieve(agent_id, include=["agent.tags"]))
        except TROUBLE as error:
            if isinstance(error, letta_client.APIStatusError) and _is_unknown_agent(error):
                return None
            self._probe.forget()
            raise unavailable(error) from error

    async def close(self) -> None:
        await self._client.close()

    async def _turn(self, call: Call, run_named: RunNamed, reading: Reading) -> Outcome:
        try:
            abilities = await self.abilities()
        except LettaUnavailableError as error:
            return Failed(f"not sent: {error}", counts=False, trouble=Trouble.ILL if error.answered else Trouble.AWAY)
        if abilities.joins:
            try:
                stream = await self._open(call, background=True)
            except TROUBLE as error:
                if not _has_no_redis(error):
                    return self._ended(error, call)
                # It lost its Redis since it was asked, and refused before it began: nothing can double.
                self._probe.forget()
            else:
                return await self._follow(stream, call, run_named, reading)
        if call.conversation is None and not abilities.lists_runs:
            return await self._block(call)
        # A stream names its run before the model answers, with or without Redis: what a look needs.
        try:
            # Not streaming=False: that takes no lock, leaves its run `created` and comes back empty.
            stream = await self._open(call, background=False)
        except TROUBLE as error:
            return self._ended(error, call)
        return await self._follow(stream, call, run_named, reading)

    async def _open(self, call: Call, *, background: bool) -> AsyncStream[Any]:
        return await self._client.conversations.messages.create(
            call.conversation or "default",
            agent_id=letta_client.omit if call.conversation else call.agent,
            streaming=True,
            background=background,
            messages=[_message(call)],
            timeout=turn_timeout(self._client),
        )

    async def _follow(self, stream: AsyncStream[Any], call: Call, run_named: RunNamed, reading: Reading) -> Outcome:
        """Reads a stream to its end. What `run_named` raises is the caller's and goes through."""
        try:
            async for event in events_of(stream):
                known = reading.run_id
                reading.take(event)
                if known is None and reading.run_id is not None:
                    await run_named(reading.run_id)
        except StreamError as error:
            return self._ended(error.reason, call, reading.run_id)
        return reading.outcome(hidden=call.content)

    async def _block(self, call: Call) -> Outcome:
        try:
            answer = await self._client.agents.messages.create(
                call.agent, messages=[_message(call)], timeout=turn_timeout(self._client)
            )
        except TROUBLE as error:
            return self._ended(error, call)
        reading = Reading()
        # Something in between may answer 200 with a page of its own: the SDK then hands out its text.
        reading.take_all(getattr(answer, "messages", None) or [])
        reading.take(getattr(answer, "stop_reason", None))
        reading.usage = usage_of(getattr(answer, "usage", None))
        return reading.outcome(hidden=call.content)

    def _ended(self, error: Exception, call: Call, run_id: str | None = None) -> Outcome:
        if not isinstance(error, letta_client.APIStatusError):
            self._probe.forget()
        return from_exception(error, run_id=run_id, hidden=call.content)


def _has_no_redis(error: Exception) -> bool:
    """LETTA.md section 5, background stream without Redis. Told while opening, before anything began."""
    if not isinstance(error, letta_client.APIStatusError) or error.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
        return False
    detail = answer_of(error).detail
    return isinstance(detail, str) and "requires Redis" in detail


def _message(call: Call) -> Any:
    return {"role": "user", "content": call.content, "otid": call.otid}


def _agent(state: object) -> Agent | None:
    agent_id, name = getattr(state, "id", None), getattr(state, "name", None)
    if not isinstance(agent_id, str) or not is_agent_id(agent_id):
        return None
    return Agent(id=agent_id, name=str(name or ""), tags=tuple(getattr(state, "tags", None) or ()))


def _is_unknown_agent(error: letta_client.APIStatusError) -> bool:
    """Gone, never there, or an id that Letta would not give out (a uuid other than version 4)."""
    if error.status_code == HTTPStatus.NOT_FOUND:
        return not answer_of(error).has_no_route
    return error.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
