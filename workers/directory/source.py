"""Where agents come from. A Letta adapter fits; the directory never imports one."""

from collections.abc import AsyncIterator
from typing import Protocol

from schemas.agent import Agent
from schemas.context import Context
from schemas.ids import AgentId


class AgentSource(Protocol):
    """What the directory asks of a Letta back end."""

    def agents(self, context: Context) -> AsyncIterator[Agent]:
        """Every agent of the tenant, to the end of the list."""

    async def agent(self, context: Context, agent_id: AgentId) -> Agent | None:
        """One agent with its tags."""
