"""The agents of a run, with ids that every process works out for itself, and a back end that has no server."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import NAMESPACE_DNS, UUID, uuid5

from schemas.agent import Agent, tenant_tag
from schemas.context import Context
from schemas.ids import AgentId, TenantId
from schemas.outcome import Outcome, Replied
from workers.turn.letta.contract import Abilities, Call, Fate, NotDelivered, RunNamed

TENANT: TenantId = "bench"
"""The tenant of every trial that needs only one."""
_REPLIED = Replied("ok", "end_turn", None)


def agent_id(number: int) -> AgentId:
    """Letta's ids are uuids of version 4."""
    return f"agent-{UUID(bytes=uuid5(NAMESPACE_DNS, f'{number}.bench.postroom').bytes, version=4)}"


def listed(number: int) -> list[dict[str, Any]]:
    """So many agents of the tenant, as a Letta server lists them."""
    return [{"id": agent_id(one), "name": f"agent-{one}", "tags": [tenant_tag(TENANT)]} for one in range(number)]


class NoLetta:
    """A back end whose turns are over before they began: what is left is what Postroom itself costs."""

    def __init__(self, agents: int, *, turn_seconds: float = 0.0) -> None:
        self._ids = [agent_id(number) for number in range(agents)]
        self._turn_seconds = turn_seconds

    async def abilities(self) -> Abilities:
        return Abilities(joins=True, lists_runs=True, locks=True, version="none", simulated=True)

    async def awake(self) -> None:
        """It always is."""

    async def turn(self, context: Context, call: Call, run_named: RunNamed) -> Outcome:  # noqa: ARG002
        if self._turn_seconds:
            await asyncio.sleep(self._turn_seconds)
        return _REPLIED

    async def look(self, context: Context, call: Call, run_id: str | None, opened_at_ms: int) -> Fate:  # noqa: ARG002
        return NotDelivered()

    async def agents(self, context: Context) -> AsyncIterator[Agent]:
        for number, id_ in enumerate(self._ids):
            yield Agent(id=id_, name=f"agent-{number}", tags=(tenant_tag(context.tenant),))

    async def agent(self, context: Context, agent_id: AgentId) -> Agent | None:
        return Agent(id=agent_id, name=agent_id, tags=(tenant_tag(context.tenant),))

    async def close(self) -> None:
        """There is nothing to close."""
