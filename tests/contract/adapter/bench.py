"""What the adapter's tests work with: a server, the adapter on it, and short ways to ask both."""

import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import letta_client
from letta_client import AsyncLetta

from console.sandbox.behaviour import Behaviour
from console.sandbox.world import World
from schemas.agent import tenant_tag
from schemas.context import Context, service_context
from schemas.outcome import Outcome
from workers.turn.letta.contract import Abilities, Call, Fate
from workers.turn.letta.rest import RestLetta

MODEL = "openai-proxy/stub-chat"
TOOL = "conversation_search"


def fresh(kind: str) -> str:
    """A name nobody else uses."""
    return f"{kind}-{uuid4().hex[:12]}"


async def unnamed(run_id: str) -> None:
    """Nobody wants to know."""


@dataclass
class Bench:
    """A server and the adapter on it."""

    name: str
    url: str
    client: AsyncLetta
    letta: RestLetta
    abilities: Abilities
    tenant: str
    sandbox: World | None = None
    made: list[str] = field(default_factory=list)

    @property
    def pace(self) -> int:
        """How much more time a real server is given where a call is to be cut after its run has begun."""
        return 1 if self.sandbox is not None else 4

    @property
    def context(self) -> Context:
        return service_context(self.tenant, "test")

    async def agent(self, **options: Any) -> str:
        """A new agent of the tenant."""
        tags = [tenant_tag(self.tenant), *options.pop("tags", [])]
        options = {"name": fresh("agent"), "model": MODEL, "include_base_tools": False, **options}
        self.made.append((await self.client.agents.create(tags=tags, **options)).id)
        return self.made[-1]

    async def delete(self, agent_id: str) -> None:
        with suppress(letta_client.NotFoundError):
            await self.client.agents.delete(agent_id)

    async def call(self, content: str, *, agent: str | None = None, deadline: float = 30.0, **more: Any) -> Call:
        """A call with an otid of its own, to a new agent unless told to whom."""
        return Call(
            agent=agent or await self.agent(),
            content=content,
            otid=fresh("otid"),
            conversation=more.get("conversation"),
            deadline_seconds=deadline,
        )

    async def turn(self, call: Call) -> Outcome:
        return await self.letta.turn(self.context, call, unnamed)

    async def look(self, call: Call, run_id: str | None = None, *, deadline: float = 30.0) -> Fate:
        """What became of a call that was opened in the last minute."""
        opened_at_ms = int((time.time() - 60) * 1_000)
        return await self.letta.look(self.context, replace(call, deadline_seconds=deadline), run_id, opened_at_ms)

    async def heard(self, call: Call) -> int:
        """How often the call's message stands in its agent's thread."""
        messages = [each async for each in self.client.agents.messages.list(call.agent, order="asc", limit=200)]
        return sum(1 for each in messages if getattr(each, "otid", None) == call.otid)

    def misbehave(self, **faults: Any) -> None:
        """Switches faults of the whole sandbox on; without any, off."""
        assert self.sandbox is not None
        self.sandbox.behaviour = Behaviour(**faults) if faults else None
