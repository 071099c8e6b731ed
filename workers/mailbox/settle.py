"""The settler: writes how turns ended, many in one script, and does not give up while Redis is away."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeAlias

from schemas.context import Context
from schemas.ids import TenantId
from workers.broker.client import REDIS_AWAY, is_refused_for_good
from workers.broker.results import Settled, Settlement
from workers.errors import NotSettledError
from workers.ids import new_seed
from workers.mailbox.ring import Bells
from workers.resources import Resources

BATCH = 64
PAUSE_SECONDS = 0.25

Waiting: TypeAlias = tuple[Settlement, bool, asyncio.Future[str]]
"""What is to be written, whether it rings, and who waits for the result."""


class Settler:
    """One for a process. What comes while a script runs goes with the next one."""

    def __init__(self, resources: Resources, bells: Bells) -> None:
        self._resources = resources
        self._bells = bells
        self._pending: defaultdict[TenantId, list[Waiting]] = defaultdict(list)
        self._flushing: dict[TenantId, asyncio.Task[None]] = {}

    async def settle(self, context: Context, settlement: Settlement, *, rings: bool) -> str:
        """Settles one delivery: `settled`, `parked` (and its agent with it), `already`, or `lost` where another worker
        has it.

        `rings` is False where the caller takes again by itself. Waits as long as Redis is away: a settlement
        that comes late is accepted as long as nobody else has taken the delivery.

        Raises:
            NotSettledError: Redis refuses it for good. The lease runs out, and the delivery is taken back.
        """
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._pending[context.tenant].append((settlement, rings, done))
        if context.tenant not in self._flushing:
            task = asyncio.create_task(self._flush(context), name="settler")
            self._flushing[context.tenant] = task
        return await done

    async def _flush(self, context: Context) -> None:
        try:
            while self._pending[context.tenant]:
                waiting = self._pending[context.tenant]
                batch, self._pending[context.tenant] = waiting[:BATCH], waiting[BATCH:]
                try:
                    await self._write(context, batch)
                except NotSettledError:
                    # One of them cannot be written: alone, the others can.
                    for one in batch:
                        await self._write_alone(context, one)
                except Exception as error:  # noqa: BLE001  # handed to whoever waits
                    _fail(batch, error)
        finally:
            del self._flushing[context.tenant]
            del self._pending[context.tenant]

    async def _write_alone(self, context: Context, one: Waiting) -> None:
        try:
            await self._write(context, [one])
        except Exception as error:  # noqa: BLE001  # handed to whoever waits
            _fail([one], error)

    async def _write(self, context: Context, batch: Sequence[Waiting]) -> None:
        seed = new_seed() if any(rings for _, rings, _ in batch) else ""
        settlements = [settlement for settlement, _, _ in batch]
        answer = await self._persist(context, seed, settlements)
        for (_, _, done), result in zip(batch, answer.results, strict=True):
            if not done.done():
                done.set_result(result)
        await self._bells.ring(context, answer.pools, seed)
        try:
            await self._bells.note(context, answer.next_look_ms)
        except REDIS_AWAY:
            # A hint; the sweeper looks at everybody anyway.
            self._resources.log.of(context).debug("note failed")

    async def _persist(self, context: Context, seed: str, settlements: list[Settlement]) -> Settled:
        while True:
            try:
                return await self._resources.scripts.settle(context, seed=seed, settlements=settlements)
            except REDIS_AWAY as error:
                if is_refused_for_good(error):
                    log = self._resources.log.of(context)
                    log.exception("redis refuses to settle", count=len(settlements))
                    raise NotSettledError(type(error).__name__) from error
                self._resources.log.of(context).warning("settle waits for redis", error_type=type(error).__name__)
                await self._resources.clock.sleep(PAUSE_SECONDS)


def _fail(batch: Sequence[Waiting], error: Exception) -> None:
    for _, _, done in batch:
        if not done.done():
            done.set_exception(error)
