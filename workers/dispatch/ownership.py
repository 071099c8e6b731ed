"""Which tenants' streams this dispatcher owns: one dispatcher at a time for a stream, a fair share for each.

Owning is a lease in the tenant's slot; the dispatch script checks it, so that a dispatcher that was paused and
comes back moves nothing out of order.
"""

import asyncio
import json
import math
from collections.abc import Collection, Coroutine, Iterable
from dataclasses import dataclass

from redis.exceptions import ResponseError

from schemas.context import Context, service_context
from schemas.ids import TenantId
from workers import version
from workers.broker import keys
from workers.broker.client import is_refused_for_good
from workers.ids import tenant_ids
from workers.resources import Resources
from workers.service import Service
from workers.settings import LEASE_SECONDS, RENEW_SECONDS

LEASE_MS = int(LEASE_SECONDS * 1000)
AT_ONCE = 64
GIVEN_SECONDS = LEASE_SECONDS
"""How long a stream that was given to a newer dispatcher is left to it."""


@dataclass(frozen=True, slots=True)
class Peers:
    """The dispatchers that live, this one among them."""

    alive: int
    older: bool
    """Whether one of them is of an earlier version than this one."""
    newer: bool


class Ownership(Service):
    """Keeps and shares out the leases on streams."""

    name = "ownership"
    every_seconds = RENEW_SECONDS

    def __init__(self, resources: Resources, *, own_version: str = "") -> None:
        super().__init__(resources)
        self.offered: Collection[TenantId] = ()
        """Streams with something on them that only a newer dispatcher can move: given up as soon as there is one."""
        self._owner = resources.process_id
        self._version = version.numbers(own_version or version.own())
        self._given: dict[TenantId, float] = {}
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
        peers = await self._peers()
        # What an older dispatcher gives up, a newer one takes beyond its share.
        share = len(tenants) if peers.older else math.ceil(len(tenants) / peers.alive)
        for tenant in set(self._until).difference(tenants):
            self.lose(tenant)
        if peers.newer:
            await self._give(tenant for tenant in tenants if tenant in self._until and tenant in self.offered)
        mine = [tenant for tenant in tenants if tenant in self._until]
        await asyncio.gather(*(self._hold(tenant) for tenant in mine[:share]))
        await asyncio.gather(*(self._release(tenant) for tenant in mine[share:]))
        for tenant in tenants:
            if len(self._until) >= share:
                break
            if tenant not in self._until and not self._is_given(tenant):
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
            flags = await pipe.execute(raise_on_error=False)
        # One whose record cannot be read is not read either.
        return frozenset(
            tenant for tenant, flag in zip(tenants, flags, strict=True) if flag != b"0" and flag is not None
        )

    async def _hold(self, tenant: TenantId) -> None:
        async with self._gate:
            asked_at = self.resources.clock.monotonic()
            held = await self._ask(
                tenant, self.resources.scripts.hold_stream(_context(tenant), owner=self._owner, lease_ms=LEASE_MS)
            )
        if held:
            self._until[tenant] = asked_at + LEASE_SECONDS
        else:
            self.lose(tenant)

    async def _release(self, tenant: TenantId) -> None:
        self.lose(tenant)
        async with self._gate:
            await self._ask(tenant, self.resources.scripts.release_stream(_context(tenant), owner=self._owner))

    async def _ask(self, tenant: TenantId, asked: Coroutine[object, object, bool]) -> bool:
        """False, too, where a hand in Redis has spoiled what it asks about: that must not stop the other tenants."""
        try:
            return await asked
        except ResponseError as error:
            if not is_refused_for_good(error):
                raise
            log = self.resources.log.of(_context(tenant))
            log.warning("the stream cannot be owned", error_type=type(error).__name__)
            return False

    async def _give(self, tenants: Iterable[TenantId]) -> None:
        for tenant in list(tenants):
            self.resources.log.of(_context(tenant)).info("stream left to a newer dispatcher")
            self._given[tenant] = self.resources.clock.monotonic() + GIVEN_SECONDS
            await self._release(tenant)

    def _is_given(self, tenant: TenantId) -> bool:
        return self._given.get(tenant, 0) > self.resources.clock.monotonic()

    async def _peers(self) -> Peers:
        """Who lives, by Redis' clock, and how new they are, by their signs of life."""
        client = self.resources.client
        seconds, _ = await client.time()
        async with client.pipeline(transaction=True) as pipe:
            pipe.zadd(keys.dispatchers(), {self._owner: int(seconds) + LEASE_SECONDS})
            pipe.zremrangebyscore(keys.dispatchers(), "-inf", int(seconds))
            # None of ours lives so long without a word: it would have a share of the streams, and move nothing.
            pipe.zremrangebyscore(keys.dispatchers(), int(seconds) + 2 * LEASE_SECONDS, "+inf")
            pipe.zrange(keys.dispatchers(), 0, -1)
            *_, alive = await pipe.execute()
        others = [member.decode(errors="replace") for member in alive if member != self._owner.encode()]
        signs = await client.mget([keys.process(other) for other in others]) if others else []
        versions = [self._version_in(sign) for sign in signs]
        newest, oldest = max([self._version, *versions]), min([self._version, *versions])
        return Peers(max(1, len(alive)), older=oldest < self._version, newer=newest > self._version)

    def _version_in(self, sign: bytes | None) -> tuple[int, ...]:
        """Of a process' sign of life; where it tells none, it passes for ours."""
        try:
            found = json.loads(sign or b"{}")
        except ValueError:
            return self._version
        said = found.get("version") if isinstance(found, dict) else None
        return version.numbers(said) or self._version if isinstance(said, str) else self._version


def _context(tenant: TenantId) -> Context:
    return service_context(tenant, Ownership.name)
