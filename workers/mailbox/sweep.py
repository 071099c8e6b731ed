"""The sweeper: looks at tenants when something is due, and at every tenant now and then.

It promotes what is due, takes back what dead workers held, ends what has expired, purges what is old, and rings
where work waits and no drain is on its way. Any number may run.
"""

import asyncio
from collections.abc import Awaitable, Callable

from schemas.context import Context, service_context
from schemas.ids import MessageId, TenantId
from workers.broker import keys
from workers.ids import new_seed, tenant_ids
from workers.mailbox.ring import Bells
from workers.resources import Resources
from workers.service import Service

TICK_SECONDS = 0.1
EVERYBODY_SECONDS = 5.0
"""Every tenant is looked at this often, whatever the agenda says: hints may be lost."""
OVERFLOW_MS = 1_000
"""A claim older than this is checked, and work it stands for may go to the standard pool."""
BATCH = 200
AT_ONCE = 32


Close = Callable[[Context, MessageId], Awaitable[bool]]
"""False where the gathering is left to a newer sweeper."""


class Sweeper(Service):
    """One sweeper; runs beside every dispatcher. `close` closes gatherings; without it they are left to another."""

    name = "sweeper"

    def __init__(self, resources: Resources, bells: Bells, close: Close | None = None) -> None:
        super().__init__(resources)
        self._bells = bells
        self._close = close
        self._everybody_at = 0.0
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def step(self) -> None:
        now = self.resources.clock.monotonic()
        if now >= self._everybody_at:
            self._everybody_at = now + EVERYBODY_SECONDS
            tenants = tenant_ids(await self.resources.client.smembers(keys.tenants()))
        else:
            tenants = await self._due()
        looked = await asyncio.gather(*(self._look(tenant) for tenant in tenants), return_exceptions=True)
        failed = {tenant: error for tenant, error in zip(tenants, looked, strict=True) if error is not None}
        if failed and len(failed) == len(tenants):
            raise next(iter(failed.values()))
        for tenant, error in failed.items():
            # One tenant's trouble is not the others'.
            log = self.resources.log.of(service_context(tenant, self.name))
            log.warning("sweep failed", error_type=type(error).__name__)
        if not tenants:
            await self.pause(TICK_SECONDS)

    async def look(self, tenant: TenantId) -> None:
        """Looks after one tenant now."""
        context = service_context(tenant, self.name)
        seed = new_seed()
        swept = await self.resources.scripts.sweep(context, seed=seed, overflow_ms=OVERFLOW_MS)
        await self._bells.ring(context, swept.pools, seed)
        for pool, claimed in swept.claims:
            if not await self._bells.is_coming(context, pool, claimed):
                await self._bells.hand_on(context, pool)
        closed = [await self._close(context, message_id) for message_id in swept.gathers] if self._close else []
        if all(closed):
            # Else it is due still: the look at everybody finds it again, soon enough.
            await self._bells.note(context, swept.next_look_ms)

    async def _look(self, tenant: TenantId) -> None:
        async with self._gate:
            await self.look(tenant)

    async def _due(self) -> list[TenantId]:
        """Tenants whose time has come, taken off the agenda: each by one sweeper."""
        client = self.resources.client
        seconds, micros = await client.time()
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        members = await client.zrangebyscore(keys.agenda(), "-inf", now_ms, start=0, num=BATCH)
        if not members:
            return []
        async with client.pipeline(transaction=False) as pipe:
            for member in members:
                pipe.zrem(keys.agenda(), member)
            removed = await pipe.execute()
        return tenant_ids(member for member, mine in zip(members, removed, strict=True) if mine)
