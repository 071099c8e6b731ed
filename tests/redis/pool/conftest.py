"""A pool on a real Redis of its own: arq is no friend of fakes, and these tests kill what they run on."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.conftest import REAL
from tests.support.builders import Workshop, agent, envelope, of_tenant, resources
from tests.support.fake_letta_port import FakeLetta
from tests.support.ledger import agent_id
from tests.support.redis_server import RedisServer
from workers.broker.arq import connect_arq
from workers.broker.client import close, connect
from workers.broker.results import Move
from workers.broker.rules import Pool
from workers.pool import PoolService

OWNER = "dispatcher-1"


class PoolBench:
    """One pool process, and a producer beside it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = connect(url)
        self.arq = connect_arq(url)
        self.letta = FakeLetta(roster=[agent(number) for number in range(1, 60)])
        self.resources = resources(connect(url))
        self.workshop = Workshop(self.resources, self.letta, self.arq)
        self.services: list[PoolService] = []
        self.context = of_tenant("acme")

    def pool(self, size: int = 8, name: Pool = Pool.STANDARD) -> PoolService:
        service = PoolService(self.resources, self.url, self.workshop.slots(name, size), self.workshop.hands)
        self.services.append(service)
        return service

    async def register(self, tenant: str = "acme") -> None:
        limits = {"per_minute": 9_999, "team_per_minute": 9_999, "agent_per_minute": 9_999, "in_flight": 64}
        root = f"postroom:{{{tenant}}}:"
        await self.client.hset(f"{root}tenant", mapping={**limits, "max_bytes": 10**9, "suspended": 0})
        await self.client.set(f"{root}dispatcher", OWNER)
        await self.client.sadd("postroom:tenants", tenant)

    async def send(self, message_id: str, number: int = 1, **fields: Any) -> None:
        """What a dispatcher does, with the bell."""
        said = envelope(id=message_id, to={"agent": agent_id(number)}, **fields)
        scripts = self.resources.scripts
        await scripts.publish(
            self.context, message_id=message_id, digest=said.digest(), envelope=said.to_wire(), size=5
        )
        entry = (await self.client.hget(f"postroom:{{acme}}:message:{message_id}", "entry")).decode()
        move = Move(
            entry,
            message_id,
            said.digest(),
            said.to_wire(),
            5,
            said.priority.rank,
            None,
            None,
            ((agent_id(number), ()),),
        )
        answer = await scripts.dispatch(self.context, owner=OWNER, move=move, seed=message_id)
        await self.workshop.bells.ring(self.context, answer.pools, message_id)

    async def state(self, message_id: str) -> str:
        return str((await self.client.hget(f"postroom:{{acme}}:delivery:{message_id}:1", "state")).decode())

    async def is_delivered(self, message_id: str) -> bool:
        return await self.state(message_id) == "delivered"

    async def arq_keys(self) -> set[str]:
        return {key.decode() for key in await self.client.keys("*arq*")}


@asynccontextmanager
async def bench_on(url: str) -> AsyncIterator[PoolBench]:
    bench = PoolBench(url)
    await bench.client.flushall()
    await bench.register()
    try:
        yield bench
    finally:
        if bench.letta.gate is not None:
            bench.letta.gate.set()
        await asyncio.gather(*(service.stop(5) for service in bench.services))
        for client in (bench.client, bench.arq, bench.resources.client):
            await close(client)


@pytest.fixture(params=[*REAL])
async def pool_bench(request: pytest.FixtureRequest, redis_servers: dict[str, RedisServer]) -> AsyncIterator[PoolBench]:
    async with bench_on(redis_servers[request.param].url) as bench:
        yield bench


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server that a test may stop, kill and start."""
    server = RedisServer(next(iter(REAL.values()))).start()
    yield server
    server.stop()


@pytest.fixture
async def fragile(own_server: RedisServer) -> AsyncIterator[tuple[PoolBench, RedisServer]]:
    async with bench_on(own_server.url) as bench:
        yield bench, own_server
