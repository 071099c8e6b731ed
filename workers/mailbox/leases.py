"""The keeper: renews the leases of this process's turns, and cuts the turns whose lease is lost."""

from asyncio import Task
from collections import defaultdict
from dataclasses import dataclass

from schemas.context import Context
from schemas.delivery import Taken
from schemas.ids import AgentId, TenantId
from workers.resources import Resources
from workers.service import Service
from workers.settings import LEASE_SECONDS, RENEW_SECONDS


@dataclass(slots=True)
class _Held:
    context: Context
    agent: AgentId
    token: int
    task: Task[None]
    until: float
    """Monotonic seconds, counted from before the request that gave or renewed the lease: never too late."""


class Keeper(Service):
    """Every lease of this process."""

    name = "keeper"
    every_seconds = RENEW_SECONDS

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self._held: dict[tuple[TenantId, AgentId], _Held] = {}

    def hold(self, context: Context, taken: Taken, task: Task[None], *, asked_at: float) -> None:
        """Begins to renew a lease that was asked for at `asked_at` (monotonic).

        A turn of this agent that still runs here has lost its lease: the new token proves it, and it is cut.
        """
        until = asked_at + LEASE_SECONDS
        before = self._held.get((context.tenant, taken.agent))
        if before is not None and before.token != taken.token:
            before.task.cancel()
        self._held[context.tenant, taken.agent] = _Held(context, taken.agent, taken.token, task, until)

    def release(self, context: Context, taken: Taken) -> None:
        """Stops renewing: the turn is settled or given up."""
        held = self._held.get((context.tenant, taken.agent))
        if held is not None and held.token == taken.token:
            del self._held[context.tenant, taken.agent]

    def seconds_left(self, context: Context, taken: Taken) -> float:
        """How long the lease surely lasts: 0 where it is lost."""
        held = self._held.get((context.tenant, taken.agent))
        if held is None or held.token != taken.token:
            return 0.0
        return max(0.0, held.until - self.resources.clock.monotonic())

    async def step(self) -> None:
        await self.renew()

    async def renew(self) -> None:
        """Renews every lease, one script a tenant."""
        by_tenant: defaultdict[TenantId, list[_Held]] = defaultdict(list)
        for (tenant, _), held in self._held.items():
            by_tenant[tenant].append(held)
        for leases in by_tenant.values():
            await self._renew(leases[0].context, leases)

    async def _renew(self, context: Context, leases: list[_Held]) -> None:
        asked_at = self.resources.clock.monotonic()
        lost = await self.resources.scripts.renew(
            context, lease_ms=int(LEASE_SECONDS * 1000), pairs=[(held.agent, held.token) for held in leases]
        )
        for held in leases:
            if held.agent not in lost:
                held.until = asked_at + LEASE_SECONDS
            elif self._held.get((context.tenant, held.agent)) is held:
                self.resources.log.of(context).warning("lease lost", agent=held.agent, token=held.token)
                del self._held[context.tenant, held.agent]
                held.task.cancel()
