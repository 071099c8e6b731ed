"""Which tenants' streams this dispatcher owns: one dispatcher at a time for a stream, a fair share for each.

Owning is a lease in the tenant's slot; the dispatch script checks it, so that a dispatcher that was paused and
comes back moves nothing out of order.
"""

import asyncio
import math

from schemas.context import Context, service_context
from schemas.ids import TenantId
from workers.broker import keys
from workers.ids import tenant_ids
from workers.resources import Resources
from workers.service import Service
from workers.settings import LEASE_SECONDS, RENEW_SECONDS

LEASE_MS = int(LEASE_SECONDS * 1000)
AT_ONCE = 64


class Ownership(Service):
    """Keeps and shares out the leases on streams."""

    name = "ownership"
    every_seconds = RENEW_SECONDS

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self._owner = resources.process_id
        self._until: dict[TenantId, float] = {}
        self._suspended: frozenset[TenantId] = frozenset()
        self._gate = asyncio.Semaphore(AT_ONCE)

    @property
    def owned(self) -> list[TenantId]:
        """The tenants whose stream is ours for now."""
        now = self.resources.clock.monotonic()
        return [tenant for tenant, until in self._until.items() if until > now]

    @property
    def readable(self) -> list[TenantId]:
        """Those of them that are not suspended."""
        return [tenant for tenant in self.owned if tenant not in self._suspended]

    def lose(self, tenant: TenantId) -> None:
        """A script said that the stream is another's."""
        self._until.pop(tenant, None)

    async def step(self) -> None:
        await self.refresh()

    async def refresh(self) -> None:
        """Renews what is ours, claims what is free up to our share, gives up what is over it."""
        client = self.resources.client
        tenants = sorted(tenant_ids(await client.smembers(keys.tenants())))
        share = math.ceil(len(tenants) / await self._dispatchers()) if tenants else 0
        mine = [tenant for tenant in tenants if tenant in self._until]
        for tenant in set(self._until).difference(tenants):
            self.lose(tenant)
        await asyncio.gather(*(self._hold(tenant) for tenant in mine[:share]))
        await asyncio.gather(*(self._release(tenant) for tenant in mine[share:]))
        for tenant in tenants:
            if len(self._until) >= share:
                break
            if tenant not in self._until:
                await self._hold(tenant)

        self._suspended = await self._which_are_suspended(list(self._until))

    async def finish(self) -> None:
        """Gives every stream up, so that another dispatcher goes on at once."""
        await self.resources.client.zrem(keys.dispatchers(), self._owner)
        await asyncio.gather(*(self._release(tenant) for tenant in list(self._until)))

    async def _which_are_suspended(self, tenants: list[TenantId]) -> frozenset[TenantId]:
        if not tenants:
            return frozenset()
        async with self.resources.client.pipeline(transaction=False) as pipe:
            for tenant in tenants:
                pipe.hget(keys.of(_context(tenant)).tenant, "suspended")
            flags = await pipe.execute()
        return frozenset(tenant for tenant, flag in zip(tenants, flags, strict=True) if flag == b"1")

    async def _hold(self, tenant: TenantId) -> None:
        async with self._gate:
            asked_at = self.resources.clock.monotonic()
            held = await self.resources.scripts.hold_stream(_context(tenant), owner=self._owner, lease_ms=LEASE_MS)
        if held:
            self._until[tenant] = asked_at + LEASE_SECONDS
        else:
            self.lose(tenant)

    async def _release(self, tenant: TenantId) -> None:
        self.lose(tenant)
        async with self._gate:
            await self.resources.scripts.release_stream(_context(tenant), owner=self._owner)

    async def _dispatchers(self) -> int:
        """How many dispatchers live, this one among them, by Redis' clock."""
        client = self.resources.client
        seconds, _ = await client.time()
        async with client.pipeline(transaction=True) as pipe:
            pipe.zadd(keys.dispatchers(), {self._owner: int(seconds) + LEASE_SECONDS})
            pipe.zremrangebyscore(keys.dispatchers(), "-inf", int(seconds))
            pipe.zcard(keys.dispatchers())
            *_, alive = await pipe.execute()
        return max(1, int(alive))


def _context(tenant: TenantId) -> Context:
    return service_context(tenant, Ownership.name)
