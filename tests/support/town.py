"""A whole Postroom in one process: a real Redis, the sandbox Letta, a dispatcher and pools, and two tenants."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from console.sandbox.behaviour import Behaviour
from console.sandbox.nouns import Agent
from console.sandbox.server import SandboxServer
from console.sandbox.world import Mode
from schemas.context import Operator
from schemas.receipt import Receipt
from schemas.tenant import Limits
from tests.support.redis_server import RedisServer
from workers import roles
from workers.broker.client import Client, close, connect
from workers.broker.rules import Pool
from workers.bus.client import TenantClient
from workers.directory.tenants import Tenants
from workers.roles import Process
from workers.settings import Settings, load

OPERATOR = Operator("test")


@dataclass
class Town:
    """What a path test needs. Agents are made through the sandbox's world, messages through the front door."""

    server: RedisServer
    sandbox: SandboxServer
    settings: Settings
    client: Client
    turn_log: Path
    processes: list[Process]

    @property
    def tenants(self) -> Tenants:
        return Tenants(self.client)

    def add_agent(self, name: str, tenant: str = "acme", *tags: str, **behaviour: Any) -> Agent:
        agent = self.sandbox.world.add_agent(name, "openai-proxy/stub-chat")
        agent.tags = [f"tenant:{tenant}", *tags]
        agent.behaviour = Behaviour(**behaviour)
        return agent

    def turns(self, agent: Agent | None = None) -> list[dict[str, Any]]:
        """The turns begun, in order, as the sandbox logged them."""
        lines = [json.loads(line) for line in self.turn_log.read_text().splitlines()]
        return [line for line in lines if line["event"] == "begun" and (agent is None or line["agent"] == agent.id)]

    @asynccontextmanager
    async def of(self, tenant: str = "acme") -> AsyncIterator[TenantClient]:
        async with TenantClient.open(self.server.url, tenant=tenant, principal="test") as opened:
            yield opened


@asynccontextmanager
async def town(server: RedisServer, folder: Path, *, mode: Mode = Mode.JOINS, **settings: Any) -> AsyncIterator[Town]:
    """Starts everything, and stops it."""
    turn_log = folder / "turns.jsonl"
    turn_log.touch()
    client = connect(server.url)
    await client.flushall()
    async with SandboxServer(mode, turn_log=turn_log) as sandbox:
        loaded = load(
            **{
                "redis_url": server.url,
                "letta_base_url": sandbox.base_url,
                "log_level": "error",
                "accept_loss": True,
                "backoff_base_seconds": 0.05,
                "backoff_cap_seconds": 0.2,
                "turn_deadline_seconds": 10,
                **settings,
            }
        )
        processes = [roles.dispatcher(loaded), roles.pools(loaded, list(Pool))]
        one = Town(server, sandbox, loaded, client, turn_log, processes)
        for tenant in ("acme", "globex"):
            await one.tenants.create(OPERATOR, tenant, Limits(), now_ms=1)
        try:
            for process in processes:
                await process.start()
            yield one
        finally:
            for process in reversed(processes):
                await process.stop()
            await close(client)


async def all_final(client: TenantClient, ids: list[str], within: float = 20) -> list[Receipt]:
    """The receipts of these messages once each is final."""
    return [await client.wait(message_id, within=within) for message_id in ids]
