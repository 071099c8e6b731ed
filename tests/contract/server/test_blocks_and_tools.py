"""Blocks shared by agents, and tools attached to them."""

from uuid import uuid4

import letta_client
import pytest

from tests.contract.server.target import Target, body_of, fresh

SOURCE = '''
def {name}(x: str) -> str:
    """Give back what came in.

    Args:
        x: anything

    Returns:
        str: the same
    """
    return x
'''


async def test_a_shared_block_is_one_value_for_all(server: Target) -> None:
    block = await server.client.blocks.create(label="notes", value="first", tags=[server.tag], limit=500)
    agents = [await server.agent(block_ids=[block.id]) for _ in range(2)]
    await server.client.blocks.update(block.id, value="second")
    for agent_id in agents:
        assert (await server.client.agents.blocks.retrieve("notes", agent_id=agent_id)).value == "second"
    await server.client.agents.blocks.update("notes", agent_id=agents[0], value="third")
    assert (await server.client.blocks.retrieve(block.id)).value == "third"
    await server.client.blocks.delete(block.id)
    with pytest.raises(letta_client.NotFoundError):
        await server.client.blocks.retrieve(block.id)


async def test_the_limit_of_a_block_is_not_enforced(server: Target) -> None:
    block = await server.client.blocks.create(label="small", value="x" * 70, limit=50)
    assert len((await server.client.blocks.retrieve(block.id)).value) == 70
    await server.client.blocks.delete(block.id)


async def test_attaching_twice_is_harmless_but_labels_are_unique(server: Target) -> None:
    agent_id = await server.agent()
    first, second = [await server.client.blocks.create(label="same", value=v) for v in ("one", "two")]
    for _ in range(2):
        await server.client.agents.blocks.attach(first.id, agent_id=agent_id)
    assert [block.id async for block in server.client.agents.blocks.list(agent_id)] == [first.id]
    with pytest.raises(letta_client.ConflictError) as caught:
        await server.client.agents.blocks.attach(second.id, agent_id=agent_id)
    assert "unique_label_per_agent" in str(body_of(caught))
    for block in (first, second):
        await server.client.blocks.delete(block.id)


async def test_an_unknown_block_is_404(server: Target) -> None:
    with pytest.raises(letta_client.NotFoundError):
        await server.client.blocks.retrieve(f"block-{uuid4()}")


async def test_a_tool_is_created_found_by_name_and_attached(server: Target) -> None:
    name = fresh("tool").replace("-", "_")
    tool = await server.client.tools.create(source_code=SOURCE.format(name=name))
    assert tool.name == name
    assert [each.id for each in (await server.client.tools.list(name=name)).items] == [tool.id]
    agent_id = await server.agent()
    await server.client.agents.tools.attach(tool.id, agent_id=agent_id)
    agent = await server.client.agents.retrieve(agent_id, include=["agent.tools"])
    assert [each.name for each in agent.tools] == [name]
    await server.client.tools.delete(tool.id)


async def test_the_base_tools_come_with_an_agent_unless_declined(server: Target) -> None:
    agent_id = await server.agent(include_base_tools=True)
    agent = await server.client.agents.retrieve(agent_id, include=["agent.tools"])
    names = {each.name for each in agent.tools}
    assert names == {"conversation_search", "memory_insert", "memory_replace"}
