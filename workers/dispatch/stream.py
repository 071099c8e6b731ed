"""One tenant's stream while this dispatcher owns it.

Entries for agents that are known move at once. One for an agent that is not waits aside until the tenant's list of
agents has been read again, so that a wrong name, or a Letta server that is away, holds up nobody else.
"""

import asyncio
from collections.abc import Mapping, Sequence

from schemas.context import Context
from workers.broker.client import REDIS_AWAY
from workers.broker.results import Move
from workers.broker.rules import FULL_PAUSE_MS
from workers.directory.agents import Directory, Roster
from workers.dispatch.carry import Carried, Carrier
from workers.dispatch.route import Refused, Unresolved, as_unknown, route
from workers.errors import LettaUnavailableError
from workers.resources import Resources
from workers.tasks import end

FROM_THE_BEGINNING = "0"
AWAY_SECONDS = 2.0
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
        self._resting_until = 0.0
        self._aside: dict[str, Unresolved] = {}
        self._roster: Roster | None = None
        """While something is aside, the list by which it was unknown: what follows must not overtake it."""
        self._taking_in: asyncio.Task[None] | None = None
        self._resolving: asyncio.Task[None] | None = None

    @property
    def working(self) -> asyncio.Task[None] | None:
        """The batch in work."""
        return self._taking_in if self._taking_in is not None and not self._taking_in.done() else None

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

    async def close(self) -> None:
        """Ends what is in work. What was not moved is still on the stream."""
        await end(*(task for task in (self._taking_in, self._resolving) if task is not None))

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
        roster = self._roster or await self._directory.roster(self.context)
        moves: list[Move] = []
        refusals: list[Refused] = []
        for entry_id, fields in entries:
            routed = route(self.context, roster, entry_id.decode(), fields or {}, seen_at=seen_at)
            match routed:
                case Move():
                    moves.append(routed)
                case Refused():
                    refusals.append(routed)
                case Unresolved():
                    self._aside.setdefault(routed.entry_id, routed)
        self._heed(await self._carrier.carry(self.context, moves, refusals))
        if self._aside and not self.rests_for:
            self.cursor = entries[-1][0].decode()
        if self._aside and self._roster is None:
            self._roster = roster
            self._resolving = asyncio.create_task(self._resolve(roster), name=f"resolve {self.context.tenant}")

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
        moves: list[Move] = []
        refusals: list[Refused] = []
        for one in list(self._aside.values()):
            again = route(self.context, roster, one.entry_id, one.fields, seen_at=one.seen_at)
            if isinstance(again, Unresolved) and roster.read_at >= again.seen_at:
                again = as_unknown(again)
            match again:
                case Move():
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
