"""The dispatcher: reads the streams it owns from their beginning and moves every entry on.

No consumer group: one dispatcher owns a stream, and an entry leaves it in the script that moves it, so what is
still there, from the oldest on, is exactly what is to be done, after any crash (docs/decisions/0002).
"""

import asyncio
from collections.abc import Mapping, Sequence

from schemas.context import Context, service_context
from schemas.delivery import Cause
from schemas.ids import TenantId
from workers.broker import keys
from workers.broker.client import BLOCK_SECONDS
from workers.broker.results import Dispatched, Move
from workers.broker.rules import FULL_PAUSE_MS
from workers.directory.agents import Directory
from workers.dispatch.ownership import Ownership
from workers.dispatch.route import Refused, as_conflict, route, under_own_id
from workers.errors import LettaUnavailableError
from workers.ids import new_seed
from workers.mailbox.ring import Bells
from workers.resources import Resources
from workers.service import Service

BATCH = 128
PATIENCE_SECONDS = 0.05
"""How long all tenants wait for the slowest; it goes on by itself after that."""
LETTA_AWAY_SECONDS = 2.0

Entries = Sequence[tuple[bytes, Mapping[bytes, bytes] | None]]


class Dispatcher(Service):
    """One dispatcher; any number may run."""

    name = "dispatcher"

    def __init__(self, resources: Resources, ownership: Ownership, directory: Directory, bells: Bells) -> None:
        super().__init__(resources)
        self._ownership = ownership
        self._directory = directory
        self._bells = bells
        self._control = "0-0"
        self._busy: dict[TenantId, asyncio.Task[None]] = {}
        self._resting: dict[TenantId, float] = {}

    async def prepare(self) -> None:
        newest = await self.resources.client.xrevrange(keys.control(), count=1)
        self._control = newest[0][0].decode() if newest else "0-0"
        await self._ownership.refresh()

    async def step(self) -> None:
        self._collect()
        streams = {keys.of(_context(tenant)).tasks: tenant for tenant in await self._readable()}
        read_from = {**dict.fromkeys(streams, "0"), keys.control(): self._control}
        answer = await self.unless_stopping(
            self.resources.client.xread(read_from, count=BATCH, block=self._patience_ms())
        )
        for name, entries in answer or ():
            stream = name.decode()
            if stream == keys.control():
                self._control = entries[-1][0].decode()
                await self._ownership.refresh()
            else:
                tenant = streams[stream]
                task = asyncio.create_task(self._dispatch(_context(tenant), entries), name=f"dispatch {tenant}")
                self._busy[tenant] = task
        if self._busy:
            await asyncio.wait(self._busy.values(), timeout=PATIENCE_SECONDS)

    async def finish(self) -> None:
        if self._busy:
            await asyncio.wait(self._busy.values(), timeout=5)

    async def _readable(self) -> list[TenantId]:
        now = self.resources.clock.monotonic()
        self._resting = {tenant: until for tenant, until in self._resting.items() if until > now}
        free = [tenant for tenant in self._ownership.owned if tenant not in self._busy and tenant not in self._resting]
        async with self.resources.client.pipeline(transaction=False) as pipe:
            for tenant in free:
                pipe.hget(keys.of(_context(tenant)).tenant, "suspended")
            suspended = await pipe.execute() if free else []
        return [tenant for tenant, flag in zip(free, suspended, strict=True) if flag != b"1"]

    def _patience_ms(self) -> int:
        """A blocked read does not see the streams it was not given: come back early while some are left out."""
        if self._busy:
            return int(PATIENCE_SECONDS * 1000)
        now = self.resources.clock.monotonic()
        soonest = min((until - now for until in self._resting.values()), default=BLOCK_SECONDS)
        return max(1, int(min(BLOCK_SECONDS, soonest) * 1000))

    def _collect(self) -> None:
        for tenant, task in list(self._busy.items()):
            if task.done():
                del self._busy[tenant]
                if not task.cancelled() and task.exception() is not None:
                    self._rest(tenant, LETTA_AWAY_SECONDS)
                    log = self.resources.log.of(_context(tenant))
                    log.warning("dispatch failed", error_type=type(task.exception()).__name__)

    def _rest(self, tenant: TenantId, seconds: float) -> None:
        self._resting[tenant] = self.resources.clock.monotonic() + seconds

    async def _dispatch(self, context: Context, entries: Entries) -> None:
        moves: list[Move] = []
        refusals: list[Refused] = []
        seen_at = self.resources.clock.monotonic()
        try:
            for entry_id, fields in entries:
                routed = await route(context, self._directory, entry_id.decode(), fields or {}, seen_at=seen_at)
                if isinstance(routed, Move):
                    moves.append(routed)
                else:
                    refusals.append(routed)
        except LettaUnavailableError as error:
            # What is behind waits, too: nothing could be delivered now, and order stays order.
            self._rest(context.tenant, LETTA_AWAY_SECONDS)
            self.resources.log.of(context).warning("recipients cannot be looked up", error=str(error))
        await self._move(context, moves, refusals)
        for refused in refusals:
            await self._refuse(context, refused)

    async def _move(self, context: Context, moves: Sequence[Move], refusals: list[Refused]) -> None:
        if not moves:
            return
        seed = new_seed()
        owner = self.resources.process_id
        answers = await self.resources.scripts.dispatch_all(context, owner=owner, moves=moves, seed=seed)
        for move, answer in zip(moves, answers, strict=True):
            self._take_note(context, move, answer, refusals)
        await self._bells.ring(context, [pool for answer in answers for pool in answer.pools], seed)
        await self._bells.note(context, min((one.next_look_ms for one in answers if one.next_look_ms), default=0))

    def _take_note(self, context: Context, move: Move, answer: Dispatched, refusals: list[Refused]) -> None:
        match answer.status:
            case "conflict":
                refusals.append(as_conflict(move))
            case "lost":
                self._ownership.lose(context.tenant)
            case "full":
                self._rest(context.tenant, FULL_PAUSE_MS / 1000)
            case _:
                self.resources.log.of(context).debug("dispatched", message=move.message_id, status=answer.status)

    async def _refuse(self, context: Context, refused: Refused) -> None:
        if refused.cause is not Cause.CONFLICT and await self._is_another(context, refused):
            refused = under_own_id(refused)
        status = await self.resources.scripts.refuse(
            context,
            owner=self.resources.process_id,
            entry_id=refused.entry_id,
            message_id=refused.message_id,
            cause=refused.cause,
            detail=refused.detail,
        )
        if status == "lost":
            self._ownership.lose(context.tenant)
        self.resources.log.of(context).info("refused", message=refused.message_id, cause=refused.cause, status=status)

    async def _is_another(self, context: Context, refused: Refused) -> bool:
        """Whether the id is a message's that came by another entry."""
        entry = await self.resources.client.hget(keys.of(context).message(refused.message_id), "entry")
        return entry is not None and entry.decode() != refused.entry_id


def _context(tenant: TenantId) -> Context:
    return service_context(tenant, Dispatcher.name)
