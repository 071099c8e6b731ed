"""Postroom's real processes over one Letta server, and a tenant of the test's own on it.

What is asserted is read back from the server's own messages: what an agent heard, in which order, how often.
"""

import asyncio
import json
import subprocess
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import letta_client
from letta_client import AsyncLetta

from schemas.agent import tenant_tag
from schemas.context import Operator
from schemas.ids import TenantId
from schemas.receipt import Receipt
from schemas.tenant import Limits
from tests.contract.path.model import StrictModel
from tests.support.fleet import Fleet
from tests.support.town import all_final
from tests.support.waiting import until
from workers.broker import keys
from workers.broker.client import Client
from workers.bus.client import TenantClient
from workers.clock import SystemClock
from workers.directory.tenants import Tenants
from workers.mailbox.audit import audit

OPERATOR = Operator("test")
MODEL = "openai-proxy/stub-chat"
WITHIN_SECONDS = 90.0


def fresh(kind: str) -> str:
    """A name nobody else uses."""
    return f"{kind}-{uuid4().hex[:10]}"


@dataclass(frozen=True)
class Ground:
    """A Letta server with Postroom's processes over it. `model` stands behind the agents of a real one."""

    name: str
    url: str
    fleet: Fleet
    model: StrictModel | None

    @property
    def real(self) -> bool:
        return self.model is not None

    @property
    def tells(self) -> bool:
        """Whether the server shows its runs: then it can always be told whether a message arrived."""
        return self.name != "sandbox-plain"


@dataclass
class Place:
    """A tenant on a ground, made for one test. Its agents are deleted with it, and nothing else is touched."""

    ground: Ground
    letta: AsyncLetta
    http: httpx.AsyncClient
    redis: Client
    acme: TenantClient
    tenant: TenantId
    joins: bool
    made: list[str] = field(default_factory=list)

    async def agent(self, name: str, *tags: str, slow_seconds: float = 0.0, **options: Any) -> str:
        """A new agent of the tenant, without tools unless told; its model takes so long for each answer."""
        behind: dict[str, Any] = {"model": MODEL}
        if self.ground.model is not None:
            behind = {"llm_config": self.ground.model.llm_config, "system": f"[[delay {slow_seconds}]]"}
        created = await self.letta.agents.create(
            name=name, tags=[tenant_tag(self.tenant), *tags], include_base_tools=False, **behind, **options
        )
        self.made.append(created.id)
        if slow_seconds and not self.ground.real:
            path = f"/_sandbox/agents/{created.id}/behaviour"
            (await self.http.post(path, json={"latency_seconds": slow_seconds})).raise_for_status()
        return created.id

    async def copy(self, agent_id: str) -> str:
        """The agent exported and imported again. The sandbox has no files: it makes what an import makes."""
        original = await self.letta.agents.retrieve(agent_id, include=["agent.tags"])
        if not self.ground.real:
            tags = [tag for tag in original.tags or [] if tag != tenant_tag(self.tenant)]
            return await self.agent(f"{original.name}_copy", *tags)
        exported = await self.letta.agents.export_file(agent_id)
        imported = await self.letta.agents.import_file(file=("one.af", str(exported).encode()))
        self.made += imported.agent_ids
        return imported.agent_ids[0]

    async def delete(self, agent_id: str) -> None:
        with suppress(letta_client.NotFoundError):
            await self.letta.agents.delete(agent_id)

    async def heard(self, agent_id: str) -> list[str]:
        """What the agent's thread holds of users, oldest first, as the server lists it."""
        listed = self.letta.agents.messages.list(agent_id, order="asc", limit=200)
        return [str(each.content) async for each in listed if each.message_type == "user_message"]

    def begun(self) -> list[str]:
        """The heads of the texts whose turns have begun on this ground, whoever's."""
        if self.ground.model is not None:
            return [text[:80] for text in self.ground.model.begun]
        return [str(turn["content_head"]) for turn in self.ground.fleet.turns()]

    def has_begun(self, text: str) -> int:
        """How many turns with exactly this text have begun."""
        return Counter(self.begun())[text[:80]]

    async def ends(self, *ids: str) -> list[Receipt]:
        """The receipts of these messages once each is final."""
        return await all_final(self.acme, list(ids), within=WITHIN_SECONDS)

    async def is_accounted(self) -> bool:
        """Whether the tenant's ledger agrees with itself."""
        found = await audit(OPERATOR.for_tenant(self.tenant), self.redis, SystemClock())
        assert found == []
        return True

    async def register(self) -> None:
        await Tenants(self.redis).create(OPERATOR, self.tenant, Limits(), now_ms=1)

    async def is_left(self) -> None:
        """Waits until nothing of the tenant is left."""
        names = f"postroom:{{{self.tenant}}}:*"

        async def is_gone() -> bool:
            return not [key async for key in self.redis.scan_iter(names)] and not await self.redis.exists(
                keys.leaving()
            )

        await until(is_gone, within=WITHIN_SECONDS)

    async def postroom(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of the shell over this ground."""
        return await asyncio.to_thread(self.ground.fleet.command, *arguments, within=WITHIN_SECONDS)

    async def document(self, *arguments: str) -> Any:
        """What a command prints for machines."""
        ran = await self.postroom(*arguments, "--json")
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)
