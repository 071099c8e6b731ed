"""What a dead process leaves behind, freed at once instead of when its leases run out.

Only for a process that is surely dead: its parent has waited for it. Whoever is only silent keeps its leases to
their end.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.context import Operator, service_context
from schemas.ids import TenantId
from workers.broker import agenda, keys
from workers.broker.rules import Pool
from workers.ids import new_seed, tenant_ids
from workers.mailbox.ring import Bells
from workers.resources import Resources

AT_ONCE = 500
"""Tenants looked at in one round trip."""
SCRIPTS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Freed:
    """What was freed of one process."""

    leases: int
    streams: int


@dataclass(frozen=True, slots=True)
class _Left:
    """A tenant that the process may have to do with."""

    tenant: TenantId
    claims: tuple[tuple[Pool, str], ...]
    """Drains on their way, or begun by somebody: pool and seed."""


class Aftermath:
    """Frees what dead processes held, whichever tenants' it was."""

    def __init__(self, resources: Resources, bells: Bells) -> None:
        self._resources = resources
        self._bells = bells
        self._gate = asyncio.Semaphore(SCRIPTS_AT_ONCE)

    async def clear(self, operator: Operator, process_id: str) -> Freed:
        """Frees the leases and streams of a dead process, and has others come for its work. Safe to repeat.

        Raises:
            RedisError, OSError: Redis is away; what is left is freed by a repetition, or when its leases run out.
        """
        client = self._resources.client
        async with client.pipeline(transaction=False) as pipe:
            pipe.delete(keys.process(process_id))
            pipe.zrem(keys.dispatchers(), process_id)
            pipe.smembers(keys.tenants())
            *_, members = await pipe.execute()
        tenants = tenant_ids(members)
        leases = streams = 0
        for first in range(0, len(tenants), AT_ONCE):
            found = await self._look(process_id, tenants[first : first + AT_ONCE])
            freed = await asyncio.gather(*(self._free(process_id, left) for left in found))
            leases += sum(one.leases for one in freed)
            streams += sum(one.streams for one in freed)
        if streams:
            await agenda.wake_dispatchers(operator, client)
        return Freed(leases, streams)

    async def _look(self, process_id: str, tenants: Sequence[TenantId]) -> list[_Left]:
        """Those where a turn runs, a drain is claimed, or the stream is the process's: the rest it has nothing of."""
        async with self._resources.client.pipeline(transaction=False) as pipe:
            for tenant in tenants:
                of_tenant = keys.of(service_context(tenant, "aftermath"))
                pipe.exists(of_tenant.holders)
                pipe.get(of_tenant.dispatcher)
                pipe.hgetall(of_tenant.rung)
            answers = iter(await pipe.execute())
        found = []
        for tenant, turns, owner, rung in zip(tenants, answers, answers, answers, strict=True):
            if turns or rung or owner == process_id.encode():
                found.append(_Left(tenant, tuple(_claim(pool, claim) for pool, claim in rung.items())))
        return found

    async def _free(self, process_id: str, left: _Left) -> Freed:
        context, seed = service_context(left.tenant, "aftermath"), new_seed()
        leases = streams = cursor = 0
        async with self._gate:
            while True:
                step = await self._resources.scripts.abandon(context, owner=process_id, cursor=cursor, seed=seed)
                leases, streams, cursor = leases + step.leases, streams + step.stream, step.next_cursor
                await self._bells.ring(context, step.pools, seed)
                if not cursor:
                    break
            await self._bells.note(context, step.next_look_ms)
            for pool, claimed in left.claims:
                # A drain that has begun may have died with the process, and arq would keep others from it for seconds.
                if await self._bells.has_begun(context, pool, claimed):
                    await self._bells.hand_on(context, pool)
        return Freed(leases, streams)


def _claim(pool: bytes, claim: bytes) -> tuple[Pool, str]:
    return Pool(pool.decode()), claim.decode().partition("|")[0]
