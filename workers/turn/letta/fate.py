"""What became of a call that was cut. Looks only; nothing here can begin a turn.

In the order of what proves most: the run by its id, the call joined again under its otid, the agent's runs
since the call was opened, the agent's thread. LETTA.md sections 2 to 4 say what each can and cannot show:
above all that nothing of a turn is visible before its first step has ended.
"""

from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import letta_client
from letta_client import AsyncLetta
from letta_client.types.agents import Run

from schemas.outcome import Replied, Usage
from workers.clock import Clock
from workers.turn.letta.classify import from_event, from_stop
from workers.turn.letta.contract import (
    Abilities,
    Call,
    CannotTell,
    Ended,
    Fate,
    NotDelivered,
    StillRunning,
)
from workers.turn.letta.reading import Reading, StreamError, events_of, usage_of
from workers.turn.letta.thread import date_of, reply_in, thread_from, user_otids
from workers.turn.letta.transport import turn_timeout

_SKEW = timedelta(seconds=5)
"""How far the server's clock may be from the one that stamped the call."""
_THREAD_SKEW = timedelta(minutes=10)
"""The same for the search of the thread, where going too far costs only a page."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 2.0
_UNSEEN_SECONDS = 10.0
"""Where only the thread can be read: how long to wait for a first step to show itself."""
_RUN_SECONDS = 5.0
"""How long one look waits for a run to end. A run may outlive its server (LETTA.md section 4): whoever waits on
holds a place that other agents need, and may as well come back."""
_ACTIVE = frozenset({"created", "running"})
_NO_SUCH_RUN = frozenset({400, 404, 422})


class Search:
    """One look after one call."""

    def __init__(
        self,
        client: AsyncLetta,
        clock: Clock,
        call: Call,
        opened_at_ms: int,
        *,
        settle_seconds: float,
        orphaned_seconds: float,
        page_size: int = 100,
    ) -> None:
        self._client = client
        self._clock = clock
        self._call = call
        self._opened_at = datetime.fromtimestamp(opened_at_ms / 1_000, UTC)
        self._settle_seconds = settle_seconds
        self._orphaned_after = timedelta(seconds=orphaned_seconds)
        self._page_size = page_size
        self._until = clock.monotonic() + call.deadline_seconds
        self._pause = _FIRST_PAUSE
        self.run_id: str | None = None
        """The run that is being waited for, for whoever cuts this search."""
        self._gone: str | None = None
        """The run that the server named as ours and no longer knows."""

    async def fate(self, abilities: Abilities, run_id: str | None) -> Fate:
        """Searches until it knows, or until the call's deadline."""
        self.run_id = run_id
        if abilities.joins and run_id is None:
            self.run_id = await self._run_by_otid()
        if self.run_id is not None:
            known = await self._wait_for(self.run_id)
            if known is not None:
                return known
            self.run_id = None
        if abilities.lists_runs:
            return await self._search_runs(joins=abilities.joins)
        return await self._search_thread()

    async def _run_by_otid(self) -> str | None:
        """The run that the call began, or None where the server knows no such otid.

        Resumes the call's stream for its first event only: a stream whose server died pings for ever
        (LETTA.md section 3), while the run's own record tells how long it has been silent.
        """
        call = self._call
        try:
            stream = await self._client.conversations.messages.stream(
                call.conversation or "default",
                agent_id=letta_client.omit if call.conversation else call.agent,
                otid=call.otid,
                include_pings=True,
                timeout=turn_timeout(self._client),
            )
        except letta_client.APIStatusError as error:
            if error.status_code in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
                return None
            raise
        reading = Reading()
        try:
            async with aclosing(events_of(stream)) as events:
                async for event in events:
                    reading.take(event)
                    if reading.run_id is not None:
                        break
        except StreamError as error:
            body = getattr(error.reason, "body", None)
            if not isinstance(body, dict) or body.get("run_id") is None:
                raise error.reason from error
            return str(body["run_id"])
        return reading.run_id

    async def _wait_for(self, run_id: str, *, sure: bool = True) -> Fate | None:
        """Waits for the run's end. None: it is not there, or it is another message's run.

        `sure`: the server itself named it as ours, so that it need not show our message, and may be asked for
        again by its id. One that only may be ours is waited for to the deadline.
        """
        until = min(self._until, self._clock.monotonic() + _RUN_SECONDS) if sure else self._until
        while True:
            try:
                answer = await self._client.runs.with_raw_response.retrieve(run_id)
            except letta_client.APIStatusError as error:
                if error.status_code in _NO_SUCH_RUN:
                    self._gone = run_id if sure else self._gone
                    return None
                raise
            run = await answer.parse()
            if run.status not in _ACTIVE:
                return await self._end_of(run, sure=sure)
            if await self._is_orphaned(run, answer.headers.get("date")):
                return CannotTell(f"{run_id} has shown nothing for {self._orphaned_after}: left behind by its server?")
            if self._clock.monotonic() >= until or not await self._rest():
                return StillRunning(run_id)

    async def _end_of(self, run: Run, *, sure: bool) -> Fate | None:
        """What a run that is over says, or None where it was not ours."""
        messages = await self._messages_of(run.id)
        otids = user_otids(messages)
        if self._call.otid not in otids and (otids or not sure):
            return None
        if run.status == "failed":
            error = (run.metadata or {}).get("error")
            stop = from_stop(run.stop_reason or "", hidden=self._call.content)
            if error is None and stop is not None:
                return Ended(stop)
            return Ended(from_event(error or "the run failed", hidden=self._call.content))
        if run.status == "cancelled" and not otids:
            return NotDelivered()
        reading = Reading(run_id=run.id)
        reading.take_all(messages)
        stop_reason = "cancelled" if run.status == "cancelled" else run.stop_reason or "end_turn"
        return Ended(Replied(reading.text, stop_reason, run.id, await self._usage_of(run.id, messages)))

    async def _search_runs(self, *, joins: bool) -> Fate:
        """Searches the runs since the call was opened, then the thread.

        A server that joins has already waited for the call to name itself (1.8 s, measured).
        """
        settled = joins
        while True:
            ours, silent = await self._runs_since()
            if ours is not None:
                self.run_id = ours
                return await self._wait_for(ours) or CannotTell(f"{ours} held the message and is gone")
            if not silent:
                found = await self._thread_from_ours()
                if found:
                    return await self._told_by(found)
                if settled:
                    return await self._absent(joins=joins)
                settled = True
                await self._settle()
                continue
            # The oldest is the likeliest: only one turn of this agent is ours at a time.
            self.run_id = silent[-1]
            known = await self._wait_for(self.run_id, sure=False)
            if known is not None:
                return known
            self.run_id = None

    async def _runs_since(self) -> tuple[str | None, list[str]]:
        """The run with our message in it, else those (newest first) that show nothing yet and may be ours.

        A failed run without messages is neither: nothing of it landed.
        """
        runs = await self._client.runs.list(agent_id=self._call.agent, order="desc", limit=self._page_size)
        silent: list[str] = []
        for run in runs.items:
            if run.created_at is not None and run.created_at < self._opened_at - _SKEW:
                break
            otids = user_otids(await self._messages_of(run.id))
            if self._call.otid in otids:
                return run.id, []
            if run.status in _ACTIVE and not otids:
                silent.append(run.id)
        return None, silent

    async def _thread_from_ours(self) -> list[Any]:
        since = self._opened_at - _THREAD_SKEW
        return await thread_from(self._client, self._call, since=since, page_size=self._page_size)

    async def _told_by(self, found: list[Any]) -> Fate:
        """What our message in the thread proves on a server that lists runs."""
        run_id = getattr(found[0], "run_id", None)
        known = await self._wait_for(run_id) if run_id else None
        return known or _reply(found) or CannotTell("the message landed; its run is not known")

    async def _search_thread(self) -> Fate:
        """All there is on a server that lists no runs: a first step under way cannot be seen."""
        unseen_until = self._clock.monotonic() + _UNSEEN_SECONDS
        while True:
            found = await self._thread_from_ours()
            known = _reply(found) if found else None
            if known is not None:
                return known
            if not found and self._clock.monotonic() >= unseen_until:
                return CannotTell("not in the agent's thread, where a first step under way does not show")
            if not await self._rest():
                detail = "the message landed, no answer yet" if found else "not in the agent's thread"
                return CannotTell(detail)

    async def _absent(self, *, joins: bool) -> Fate:
        """Nothing anywhere. It proves something only where the server records runs, and has kept ours."""
        if self._gone is not None:
            return CannotTell(f"{self._gone} was begun and is gone: did the server lose its runs?")
        if not joins and not (await self._client.runs.list(limit=1)).items:
            return CannotTell("the server has no record of any run")
        return NotDelivered()

    async def _is_orphaned(self, run: Run, server_date: str | None) -> bool:
        """Whether nothing was seen of a run for too long, all by the server's own clock."""
        if server_date is None or run.created_at is None:
            return False
        line = parsedate_to_datetime(server_date) - self._orphaned_after
        if run.created_at > line:
            return False
        return all(date_of(message) < line for message in await self._messages_of(run.id))

    async def _messages_of(self, run_id: str) -> list[Any]:
        return [
            message async for message in self._client.runs.messages.list(run_id, order="asc", limit=self._page_size)
        ]

    async def _usage_of(self, run_id: str, messages: list[Any]) -> Usage:
        """What the run cost, as far as the server says: not worth failing for."""
        try:
            usage = usage_of(await self._client.runs.usage.retrieve(run_id))
        except letta_client.APIStatusError:
            usage = Usage()
        # The record counts tokens only; every message names the step it came from.
        steps = {getattr(message, "step_id", None) for message in messages} - {None}
        return replace(usage, steps=len(steps))

    async def _settle(self) -> None:
        left = self._until - self._clock.monotonic()
        await self._clock.sleep(max(0.0, min(self._settle_seconds, left / 2)))

    async def _rest(self) -> bool:
        """Waits a little longer each time; False where the deadline would pass meanwhile."""
        pause, self._pause = self._pause, min(self._pause * 2, _LONGEST_PAUSE)
        if self._clock.monotonic() + pause >= self._until:
            return False
        await self._clock.sleep(pause)
        return True


def _reply(found: list[Any]) -> Fate | None:
    replied = reply_in(found)
    return Ended(replied) if replied is not None else None
