"""Who the agents of a tenant are."""

import asyncio
from uuid import uuid4

from schemas.agent import tenant_tag
from tests.contract.adapter.bench import Bench, fresh

MANY = 60


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
