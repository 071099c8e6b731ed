"""Who the agents of a tenant are."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import fakeredis
import httpx
import pytest

from schemas.address import SelectorAddress
from schemas.agent import Agent, tenant_tag
from schemas.context import Context
from tests.contract.adapter.bench import MODEL, Bench, fresh
from workers.broker import keys
from workers.broker.client import Client
from workers.clock import SystemClock
from workers.directory.agents import Directory
from workers.directory.selection import select
from workers.turn.letta.rest import RestLetta
from workers.turn.letta.transport import connect

MANY = 60
THOUSANDS = 5_000
PAGE_SIZE = 100


class Counting:
    """The adapter as processes have it, and how many requests it made."""

    def __init__(self, url: str) -> None:
        self.requests: list[str] = []
        client = connect(url)
        client._client.event_hooks["request"].append(self._note)
        self.letta = RestLetta(client, SystemClock(), page_size=PAGE_SIZE)

    async def _note(self, request: httpx.Request) -> None:
        self.requests.append(request.url.path)


@pytest.fixture
async def redis() -> AsyncIterator[Client]:
    client = fakeredis.FakeAsyncRedis()
    yield client
    await client.aclose()


async def test_every_agent_of_the_tenant_and_no_other_is_listed(bench: Bench) -> None:
    gate = asyncio.Semaphore(8)

    async def one(**options: object) -> str:
        async with gate:
            return await bench.agent(**options)

    ours = await asyncio.gather(*(one() for _ in range(MANY)))
    other = await bench.client.agents.create(
        name=fresh("agent"), model="openai-proxy/stub-chat", tags=[tenant_tag(fresh("other")), "role:support"]
    )
    try:
        listed = [agent async for agent in bench.letta.agents(bench.context)]
    finally:
        await bench.delete(other.id)
    # Pages of 25: no agent twice, none left out.
    assert sorted(agent.id for agent in listed) == sorted(ours)
    assert all(agent.belongs_to(bench.tenant) for agent in listed)


async def test_a_tenant_without_agents_has_none(bench: Bench) -> None:
    assert [agent async for agent in bench.letta.agents(bench.context)] == []


async def test_an_agent_comes_with_its_tags(bench: Bench) -> None:
    agent_id = await bench.agent(name="Ada", tags=["role:support"])
    agent = await bench.letta.agent(bench.context, agent_id)
    assert agent is not None
    assert (agent.id, agent.name) == (agent_id, "Ada")
    assert set(agent.tags) == {tenant_tag(bench.tenant), "role:support"}


async def test_an_agent_that_is_not_there_is_none(bench: Bench) -> None:
    gone = await bench.agent()
    await bench.delete(gone)
    for agent_id in (gone, f"agent-{uuid4()}", "agent-00000000-0000-1000-8000-000000000000", "../runs", ""):
        assert await bench.letta.agent(bench.context, agent_id) is None


async def test_the_abilities_are_the_servers(bench: Bench) -> None:
    abilities = bench.abilities
    assert abilities.simulated == (bench.name != "real")
    assert abilities.locks == abilities.joins
    if bench.name != "real":
        assert (abilities.joins, abilities.lists_runs) == {
            "sandbox-joins": (True, True),
            "sandbox-runs": (False, True),
            "sandbox-plain": (False, False),
        }[bench.name]


async def test_asking_for_abilities_begins_no_turn(sandbox: Bench) -> None:
    assert sandbox.sandbox is not None
    assert sandbox.sandbox.gate.requests == 0
    assert sandbox.sandbox.runs == {}


@pytest.mark.parametrize("sandbox", ["sandbox-joins"], indirect=True)
async def test_thousands_of_agents_among_others_are_read_once_to_the_end_and_then_remembered(
    sandbox: Bench, redis: Client
) -> None:
    assert sandbox.sandbox is not None
    ours = set()
    for number in range(THOUSANDS + THOUSANDS // 5):
        made = sandbox.sandbox.add_agent(f"agent-{number}", MODEL)
        is_ours = number % 6 != 0
        made.tags = [tenant_tag(sandbox.tenant if is_ours else "another"), f"user:{number}", "role:support"]
        ours |= {made.id} if is_ours else set()
    await redis.hset(keys.of(sandbox.context).tenant, "max_bytes", 1)
    counting = Counting(sandbox.url)
    try:
        directory = Directory(redis, counting.letta, SystemClock())
        roster = await directory.recent(sandbox.context, 60)
        read = len(counting.requests)
        for _ in range(100):
            assert await directory.recent(sandbox.context, 60) is roster
        elsewhere = await Directory(redis, counting.letta, SystemClock()).recent(sandbox.context, 60)
    finally:
        await counting.letta.close()

    assert len(ours) == THOUSANDS
    assert set(roster.by_id) == ours
    # Every page, one more to see the end, and the server's abilities perhaps.
    assert THOUSANDS // PAGE_SIZE <= read <= THOUSANDS // PAGE_SIZE + 2
    assert len(counting.requests) == read
    assert elsewhere.by_id == roster.by_id
    everybody = select(elsewhere.by_id.values(), SelectorAddress(tags=("role:support",)), canary_prefix="CANARY-")
    assert {agent.id for agent in everybody.agents} == ours


@pytest.mark.parametrize("sandbox", ["sandbox-joins"], indirect=True)
async def test_an_agent_deleted_while_the_pages_are_read_costs_nobody_else_a_place(
    sandbox: Bench, redis: Client
) -> None:
    """The page's cursor is gone, and the server begins again: nobody is left out, nobody is there twice."""
    assert sandbox.sandbox is not None
    made = [await sandbox.agent(name=f"agent-{number}") for number in range(MANY)]
    listed = 0

    class Deleting:
        async def agents(self, context: Context) -> AsyncIterator[Agent]:
            nonlocal listed
            async for agent in sandbox.letta.agents(context):
                listed += 1
                yield agent
                if listed == 25:
                    await sandbox.delete(agent.id)

        async def agent(self, context: Context, agent_id: str) -> Agent | None:
            return await sandbox.letta.agent(context, agent_id)

    roster = await Directory(redis, Deleting(), SystemClock()).recent(sandbox.context, 60)

    assert set(made) - set(roster.by_id) <= {made[24]}
    assert all(len(ids) == 1 for ids in roster.by_name.values())
    assert listed > MANY
