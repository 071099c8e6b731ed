"""Deleting a tenant whole: no call after the mark, and no key left soon after it.

In order, each step safe to repeat by any process after any crash:
1. it is suspended, and its turns end or are taken back (`quiesce`, by who asked);
2. it is put on the list of those that leave (`ask`): from here on any dispatcher brings it to its end;
3. the mark: one script turns its register entry into a tombstone, if no turn runs or can begin. Every script finds
   no tenant from then on and writes nothing;
4. what stands under its root is deleted, as long as the tombstone stands, until nothing is found for a while;
5. the tombstone goes, then its place on the list: a new tenant of its name may come.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import StrEnum

from redis.exceptions import WatchError

from schemas.context import Context, Operator, service_context
from schemas.ids import TenantId
from workers.broker import agenda, keys
from workers.broker.client import Client
from workers.broker.rules import CALL_WITHIN_MS
from workers.broker.scripts import Scripts
from workers.clock import Clock
from workers.directory.tenants import Tenants
from workers.errors import RefusedError
from workers.ids import tenant_ids
from workers.resources import Resources
from workers.service import Service
from workers.settings import RENEW_SECONDS

QUIET_SECONDS = 4.0
"""Nothing may be found under the root for this long before the tombstone goes."""
STEP_SECONDS = 0.5
POLL_SECONDS = 0.1
CUT_SECONDS = RENEW_SECONDS + 1.0
"""After this a worker whose lease was taken back has cut its turn, and a delivery that was charged is not called."""
SCAN_COUNT = 1_000
AT_ONCE = 500
EVICT_AT_ONCE = 100


class Phase(StrEnum):
    """How far a removal has come."""

    BUSY = "busy"
    """Turns run: the mark waits."""
    KEPT = "kept"
    """Somebody resumed it before the mark: it stays."""
    CLEARING = "clearing"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Progress:
    """What one step of a removal did."""

    phase: Phase
    marked_at_ms: int = 0
    """Redis' time of the mark; 0 where there is none."""
    deleted: int = 0
    """Keys deleted in this step."""


@dataclass
class Remover:
    """Brings removals forward. Several at once, in one process or many, do no harm."""

    client: Client
    scripts: Scripts
    clock: Clock
    _quiet_since: dict[tuple[TenantId, int], float] = field(default_factory=dict)

    async def running(self, context: Context) -> int:
        """How many turns of the tenant run."""
        return int(await self.client.zcard(keys.of(context).leases))

    async def quiesce(self, operator: Operator, tenant: TenantId, *, wait_seconds: float) -> AsyncIterator[int]:
        """Suspends the tenant, waits for its turns, takes back those that do not end in time. Yields how many run,
        again and again, and ends when no call can begin any more.

        Raises:
            NotFoundError: it is not registered.
            RefusedError: somebody resumed it meanwhile.
        """
        context = operator.for_tenant(tenant)
        await Tenants(self.client).suspend(operator, tenant, suspended=True)
        over_at = self.clock.monotonic() + wait_seconds
        while running := await self.running(context):
            yield running
            if self.clock.monotonic() >= over_at:
                await self._evict(context)
                await self.clock.sleep(CUT_SECONDS)
                break
            await self.clock.sleep(POLL_SECONDS)
        # What was charged just before is called within this time, or not at all.
        await self.clock.sleep(CALL_WITHIN_MS / 1000)

    async def ask(self, context: Context) -> int:
        """Puts the tenant on the list of those that leave; the mark, the same whoever asks again."""
        seconds, micros = await self.client.time()
        mark = int(seconds) * 1000 + int(micros) // 1000
        await self.client.zadd(keys.leaving(), {context.tenant: mark}, nx=True)
        return int(await self.client.zscore(keys.leaving(), context.tenant) or mark)

    async def advance(self, context: Context, mark: int) -> Progress:
        """One bounded step, whoever made the ones before."""
        left = await self.scripts.leave(context, mark=mark)
        if left.status == "busy":
            return Progress(Phase.BUSY)
        if left.status == "active":
            await self._forget(context, mark)
            return Progress(Phase.KEPT)
        if left.status == "absent":
            # Cut between the last two steps: only the list is left.
            await self._strike_out(context, mark)
            await self._forget(context, mark)
            return Progress(Phase.GONE)
        await self._strike_out(context, mark)
        deleted = await self._clear(context, left.mark)
        if deleted:
            self._quiet_since.pop((context.tenant, left.mark), None)
            return Progress(Phase.CLEARING, left.marked_at_ms, deleted)
        if not self._is_quiet(context, left.mark):
            return Progress(Phase.CLEARING, left.marked_at_ms)
        await self.scripts.bury(context, mark=left.mark)
        await self._forget(context, mark)
        return Progress(Phase.GONE, left.marked_at_ms)

    async def is_listed(self, context: Context) -> bool:
        """Whether the tenant is on the list of those that leave."""
        return await self.client.zscore(keys.leaving(), context.tenant) is not None

    async def _evict(self, context: Context) -> None:
        while (left := await self.scripts.evict(context, limit=EVICT_AT_ONCE)) > 0:
            await self.clock.sleep(0)
        if left < 0:
            raise RefusedError("was resumed meanwhile; nothing was deleted", where=f"tenant {context.tenant!r}")

    async def _clear(self, context: Context, mark: int) -> int:
        """Looks through all names once and deletes what stands under the root; how many keys that were."""
        root, deleted = keys.of(context).root, 0
        names: list[str] = []
        async for key in self.client.scan_iter(match=f"{root}*", count=SCAN_COUNT):
            names.append(key.decode(errors="surrogateescape").removeprefix(root))
            if len(names) == AT_ONCE:
                deleted += await self._delete(context, mark, names)
                names = []
        return deleted + await self._delete(context, mark, names)

    async def _delete(self, context: Context, mark: int, names: list[str]) -> int:
        if not names:
            return 0
        return max(0, await self.scripts.clear(context, mark=mark, names=names))

    def _is_quiet(self, context: Context, mark: int) -> bool:
        now = self.clock.monotonic()
        return now - self._quiet_since.setdefault((context.tenant, mark), now) >= QUIET_SECONDS

    async def _strike_out(self, context: Context, mark: int) -> None:
        """Off the register; tells dispatchers where this did it."""
        if await self._while_listed(context, mark, ("SREM", keys.tenants())):
            await agenda.wake_dispatchers(context, self.client)

    async def _forget(self, context: Context, mark: int) -> None:
        self._quiet_since.pop((context.tenant, mark), None)
        await self._while_listed(context, mark, ("ZREM", keys.agenda()), ("ZREM", keys.leaving()))

    async def _while_listed(self, context: Context, mark: int, *commands: tuple[str, str]) -> bool:
        """Does it only while the tenant leaves under this mark: a new one of its name must not be struck out by a
        process that was frozen in the middle. Whether anything was changed.
        """
        async with self.client.pipeline(transaction=True) as pipe:
            await pipe.watch(keys.leaving())
            if await pipe.zscore(keys.leaving(), context.tenant) != mark:
                return False
            pipe.multi()
            for command, key in commands:
                pipe.execute_command(command, key, context.tenant)
            try:
                return any(await pipe.execute())
            except WatchError:
                # Another tenant came or went; the next step does it.
                return False


class Removal(Service):
    """Brings every removal that was asked for to its end; runs beside every dispatcher."""

    name = "removal"
    every_seconds = STEP_SECONDS

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self._remover = Remover(resources.client, resources.scripts, resources.clock)

    async def step(self) -> None:
        listed = await self.resources.client.zrange(keys.leaving(), 0, -1, withscores=True)
        marks = {member: int(score) for member, score in listed}
        for tenant in tenant_ids(marks):
            context = service_context(tenant, self.name)
            progress = await self._remover.advance(context, marks[tenant.encode()])
            if progress.phase in {Phase.GONE, Phase.KEPT}:
                self.resources.log.of(context).info("tenant removal", phase=progress.phase)
