"""One tenant's stream while this dispatcher owns it.

Entries for agents that are known move at once. One for an agent that is not waits aside until the tenant's list of
agents has been read again, so that a wrong name, or a Letta server that is away, holds up nobody else.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from schemas.address import SelectorAddress
from schemas.context import Context
from schemas.team import Team
from workers.broker import keys
from workers.broker.client import REDIS_AWAY
from workers.broker.results import Move
from workers.broker.rules import FULL_PAUSE_MS
from workers.directory.agents import Directory, Roster
from workers.directory.teams import Teams
from workers.dispatch.carry import Carried, Carrier
from workers.dispatch.left import LeftForNewer
from workers.dispatch.route import (
    Bulk,
    Entry,
    Known,
    Newer,
    Refused,
    Routed,
    Unresolved,
    as_unknown,
    goes_by_the_list,
    read,
    route,
)
from workers.errors import LettaUnavailableError
from workers.resources import Resources
from workers.tasks import end

FROM_THE_BEGINNING = "0"
AWAY_SECONDS = 2.0
LIST_SECONDS = 30.0
"""A list older than this is read again before it says who is in a team, or whom a selector finds."""
SHORT_SECONDS = 0.05
MOST_ASIDE = 1_000
"""With so many aside, the stream is not read on."""

Entries = Sequence[tuple[bytes, Mapping[bytes, bytes] | None]]


class TenantStream:
    """Routes what is read, and remembers what waits aside."""

    def __init__(self, context: Context, resources: Resources, directory: Directory, carrier: Carrier) -> None:
        self.context = context
        self.cursor = FROM_THE_BEGINNING
        """Behind what is aside; the beginning where nothing is, because what was moved is gone."""
        self.lost = False
        self._resources = resources
        self._directory = directory
        self._carrier = carrier
        self._teams = Teams(resources.client)
        self._resting_until = 0.0
        self._aside: dict[str, Unresolved] = {}
        self._roster: Roster | None = None
        """While something is aside, the list by which it was unknown: what follows must not overtake it."""
        self._left = LeftForNewer(resources.clock, resources.settings.newer_wait_seconds)
        self._outwaiting: asyncio.Task[None] | None = None
        self._taking_in: asyncio.Task[None] | None = None
        self._resolving: asyncio.Task[None] | None = None

    @property
    def working(self) -> asyncio.Task[None] | None:
        """The batch in work."""
        return self._taking_in if self._taking_in is not None and not self._taking_in.done() else None

    @property
    def has_newer(self) -> bool:
        """Whether something on it is left for a newer dispatcher."""
        return bool(self._left)

    @property
    def rests_for(self) -> float:
        """Seconds until it may be read again; 0 for now."""
        return max(0.0, self._resting_until - self._resources.clock.monotonic())

    @property
    def readable(self) -> bool:
        """Whether more may be read now."""
        return not self.lost and self.working is None and not self.rests_for and len(self._aside) < MOST_ASIDE

    def begin(self, entries: Entries) -> None:
        """Takes in a batch that was just read."""
        self._taking_in = asyncio.create_task(self._guarded(entries), name=f"dispatch {self.context.tenant}")

    def rest(self, seconds: float) -> None:
        """Leaves it unread for a while."""
        self._begin_again(seconds)

    async def close(self) -> None:
        """Ends what is in work. What was not moved is still on the stream."""
        await end(*(task for task in (self._taking_in, self._resolving, self._outwaiting) if task is not None))

    async def _guarded(self, entries: Entries) -> None:
        log = self._resources.log.of(self.context)
        try:
            await self._take_in(entries)
        except LettaUnavailableError as error:
            log.warning("no list of agents", error=str(error))
            self._begin_again(AWAY_SECONDS)
        except REDIS_AWAY as error:
            log.warning("dispatch cut", error_type=type(error).__name__)
            self._begin_again(AWAY_SECONDS)
        except Exception:
            log.exception("dispatch failed")
            self._begin_again(AWAY_SECONDS)

    async def _take_in(self, entries: Entries) -> None:
        seen_at = self._resources.clock.monotonic()
        readings = [read(self.context, id_.decode(), fields or {}, seen_at=seen_at) for id_, fields in entries]
        known = await self._known([one for one in readings if isinstance(one, Entry)])
        moves: list[Move | Bulk] = []
        refusals: list[Refused] = []
        for one in readings:
            routed = await self._routed(known, one) if isinstance(one, Entry) else self._leave(one)
            match routed:
                case Move() | Bulk():
                    moves.append(routed)
                case Refused():
                    refusals.append(routed)
                case Unresolved():
                    self._aside.setdefault(routed.entry.entry_id, routed)
                case None:
                    continue
        self._heed(await self._carrier.carry(self.context, moves, refusals))
        if (self._aside or self._left) and not self.rests_for:
            self.cursor = entries[-1][0].decode()
        if self._left and (self._outwaiting is None or self._outwaiting.done()):
            self._outwaiting = asyncio.create_task(self._outwait(), name=f"outwait {self.context.tenant}")
        if self._aside and self._roster is None:
            self._roster = known.roster
            self._resolving = asyncio.create_task(self._resolve(known.roster), name=f"resolve {self.context.tenant}")

    def _leave(self, one: Refused | Newer) -> Refused | None:
        if isinstance(one, Refused):
            return one
        known = len(self._left)
        refusal = self._left.leave(one)
        if len(self._left) > known:
            log = self._resources.log.of(self.context)
            log.info("left for a newer version", entry=one.refusal.entry_id, message=one.refusal.message_id)
        return refusal

    async def _outwait(self) -> None:
        """Refuses what no newer dispatcher has come for in its time."""
        clock, log = self._resources.clock, self._resources.log.of(self.context)
        while self._left and not self.lost:
            await clock.sleep(max(self._left.over_in, SHORT_SECONDS))
            over = self._left.over()
            try:
                self._heed(await self._carrier.carry(self.context, [], over))
            except REDIS_AWAY as error:
                log.warning("dispatch cut", error_type=type(error).__name__)
                await clock.sleep(AWAY_SECONDS)
            else:
                self._left.forget(over)

    async def _known(self, entries: Sequence[Entry]) -> Known:
        teams = await self._teams.all(self.context)
        if self._roster is not None:
            roster = self._roster
        elif any(goes_by_the_list(entry, teams) for entry in entries):
            roster = await self._directory.recent(self.context, LIST_SECONDS)
        else:
            roster = await self._directory.roster(self.context)
        return self._with(roster, teams)

    def _with(self, roster: Roster, teams: Mapping[str, Team]) -> Known:
        return Known(roster, teams, self._resources.settings.canary_prefix)

    async def _routed(self, known: Known, entry: Entry) -> Routed:
        if not isinstance(entry.envelope.to, SelectorAddress):
            return route(self.context, known, entry)
        record = keys.of(self.context).message(entry.message_id)
        state, of_entry, operator = await self._resources.client.hmget(record, "state", "entry", "operator")
        if state == b"expanding" and of_entry == entry.entry_id.encode():
            return Bulk(entry.entry_id, entry.message_id, None)
        return route(self.context, known, replace(entry, by_operator=operator == b"1"))

    async def _resolve(self, roster: Roster) -> None:
        """Reads the list again until nothing is aside."""
        log = self._resources.log.of(self.context)
        while self._aside and not self.lost:
            try:
                roster = await self._directory.newer(self.context, roster)
                await self._judge_again(roster)
            except LettaUnavailableError as error:
                log.warning("recipients cannot be looked up", error=str(error))
                await self._resources.clock.sleep(AWAY_SECONDS)
            except REDIS_AWAY as error:
                log.warning("dispatch cut", error_type=type(error).__name__)
                await self._resources.clock.sleep(AWAY_SECONDS)
            except Exception:
                log.exception("what is aside could not be judged")
                await self._resources.clock.sleep(AWAY_SECONDS)
        self._roster = None
        self._begin_again(0)

    async def _judge_again(self, roster: Roster) -> None:
        moves: list[Move | Bulk] = []
        refusals: list[Refused] = []
        known = self._with(roster, await self._teams.all(self.context))
        for one in list(self._aside.values()):
            again = await self._routed(known, one.entry)
            if isinstance(again, Unresolved) and roster.read_at >= again.entry.seen_at:
                again = as_unknown(again)
            match again:
                case Move() | Bulk():
                    moves.append(again)
                case Refused():
                    refusals.append(again)
                case Unresolved():
                    continue
        carried = await self._carrier.carry(self.context, moves, refusals)
        self._heed(carried)
        if carried.full:
            await self._resources.clock.sleep(FULL_PAUSE_MS / 1000)
            return
        for entry_id in [*(move.entry_id for move in moves), *(refused.entry_id for refused in refusals)]:
            self._aside.pop(entry_id, None)

    def _heed(self, carried: Carried) -> None:
        if carried.lost:
            self.lost = True
        if carried.full:
            self._begin_again(FULL_PAUSE_MS / 1000)

    def _begin_again(self, rest_seconds: float) -> None:
        self.cursor = FROM_THE_BEGINNING
        self._resting_until = self._resources.clock.monotonic() + rest_seconds
