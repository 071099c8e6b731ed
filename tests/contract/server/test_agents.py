"""Agents: the list is where tenancy is won or lost, so its defaults are pinned down first."""

from typing import Any
from uuid import uuid4

import httpx
import letta_client
import pytest

from tests.contract.server.target import MODEL, Target, body_of, fresh


async def test_the_same_name_twice_makes_two_agents(server: Target) -> None:
    name = fresh("twin")
    first, second = await server.agent(name=name), await server.agent(name=name)
    found = (await server.client.agents.list(name=name)).items
    assert {agent.id for agent in found} == {first, second}


async def test_several_tags_mean_or_unless_all_must_match(server: Target) -> None:
    tenant, role = fresh("tenant"), fresh("role")
    both = await server.agent(tags=[tenant, role])
    tenant_only = await server.agent(tags=[tenant])
    role_only = await server.agent(tags=[role])
    either = (await server.client.agents.list(tags=[tenant, role])).items
    assert {agent.id for agent in either} == {both, tenant_only, role_only}
    exact = (await server.client.agents.list(tags=[tenant, role], match_all_tags=True)).items
    assert [agent.id for agent in exact] == [both]


async def test_lists_are_newest_first_and_page_without_gaps_or_repeats(server: Target) -> None:
    tag = fresh("page")
    created = [await server.agent(tags=[tag]) for _ in range(5)]
    first_page = (await server.client.agents.list(tags=[tag], limit=2)).items
    assert [agent.id for agent in first_page] == created[:2:-1]
    walked = [agent.id async for agent in server.client.agents.list(tags=[tag], limit=2)]
    assert walked == created[::-1]
    ascending = [agent.id async for agent in server.client.agents.list(tags=[tag], limit=2, order="asc")]
    assert ascending == created


async def test_the_default_page_holds_fifty(sandbox: Target) -> None:
    tag = fresh("fifty")
    for _ in range(51):
        await sandbox.agent(tags=[tag])
    assert len((await sandbox.client.agents.list(tags=[tag])).items) == 50


async def test_name_is_exact_and_query_text_a_part_in_any_case(server: Target) -> None:
    name = fresh("Needle")
    agent_id = await server.agent(name=name)
    assert (await server.client.agents.list(name=name[:-1])).items == []
    found = (await server.client.agents.list(query_text=name[2:-2].upper())).items
    assert [agent.id for agent in found] == [agent_id]


async def test_relations_are_empty_unless_asked_for(server: Target) -> None:
    created = await server.client.agents.create(
        name=fresh("related"),
        model=MODEL,
        tags=[server.tag],
        memory_blocks=[{"label": "notes", "value": "remember"}],
        tools=["conversation_search"],
        include_base_tools=False,
    )
    assert (created.tags, len(created.blocks), len(created.tools)) == ([server.tag], 1, 1)
    bare = await server.client.agents.retrieve(created.id)
    assert (bare.tags, bare.blocks, bare.tools) == ([], [], [])
    asked = await server.client.agents.retrieve(created.id, include=["agent.tags", "agent.blocks"])
    assert asked.tags == [server.tag]
    assert [block.label for block in asked.blocks] == ["notes"]
    assert asked.tools == []
    listed = (await server.client.agents.list(name=created.name, include=["agent.tags"])).items
    assert [agent.tags for agent in listed] == [[server.tag]]


async def test_a_client_other_than_the_sdk_sees_relations_at_once(server: Target) -> None:
    agent_id = await server.agent()
    async with httpx.AsyncClient(base_url=server.base_url, headers={"User-Agent": "curl/8"}) as plain:
        assert (await plain.get(f"/v1/agents/{agent_id}")).json()["tags"] == [server.tag]


async def test_an_unknown_include_is_refused(server: Target) -> None:
    with pytest.raises(letta_client.UnprocessableEntityError):
        await server.client.agents.list(include=["agent.nothing"])


async def test_update_replaces_the_tags(server: Target) -> None:
    agent_id = await server.agent(tags=["old"])
    await server.client.agents.update(agent_id, tags=[server.tag, "new"])
    agent = await server.client.agents.retrieve(agent_id, include=["agent.tags"])
    assert sorted(agent.tags) == sorted([server.tag, "new"])


async def test_tags_in_use_are_listed_once(server: Target) -> None:
    tag = fresh("tagged")
    await server.agent(tags=[tag])
    await server.agent(tags=[tag])
    assert list(await server.client.tags.list()).count(tag) == 1


async def test_metadata_comes_back(server: Target) -> None:
    agent_id = await server.agent(metadata={"tenant": "acme", "level": 3})
    assert (await server.client.agents.retrieve(agent_id)).metadata == {"tenant": "acme", "level": 3}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"tools": ["nonexistent_tool"]}, letta_client.BadRequestError),
        ({"model": "openai-proxy/nonexistent"}, letta_client.NotFoundError),
        ({"model": letta_client.omit}, letta_client.BadRequestError),
        ({"tool_rules": [{"type": "nonsense", "tool_name": "x"}]}, letta_client.UnprocessableEntityError),
    ],
)
async def test_what_create_refuses(
    server: Target, options: dict[str, Any], error: type[letta_client.APIStatusError]
) -> None:
    with pytest.raises(error):
        await server.agent(**options)


async def test_an_unknown_agent_is_404_with_its_id(server: Target) -> None:
    unknown = f"agent-{uuid4()}"
    with pytest.raises(letta_client.NotFoundError) as caught:
        await server.client.agents.retrieve(unknown)
    assert body_of(caught) == {"detail": f"Agent with ID {unknown} not found"}


async def test_a_deleted_agent_is_404_as_if_it_had_never_been(server: Target) -> None:
    agent_id = await server.agent()
    await server.client.agents.delete(agent_id)
    with pytest.raises(letta_client.NotFoundError) as caught:
        await server.client.agents.messages.create(agent_id, messages=[{"role": "user", "content": "hi"}])
    assert body_of(caught) == {"detail": f"Agent with ID {agent_id} not found"}


@pytest.mark.parametrize("agent_id", ["agent-x", "agent-11dab1b0-e5a1-11f1-8f2b-02fc00000001", "x"])
async def test_a_malformed_id_is_422_not_404(server: Target, agent_id: str) -> None:
    with pytest.raises(letta_client.UnprocessableEntityError) as caught:
        await server.client.agents.retrieve(agent_id)
    assert body_of(caught)["trace_id"] == ""
    assert "string_pattern_mismatch" in body_of(caught)["detail"]
