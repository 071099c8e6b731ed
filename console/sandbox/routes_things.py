"""Blocks and tools, with how they are attached to agents; and the health check."""

import re

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from console.sandbox.answers import Answer
from console.sandbox.errors import Refusal, detail, not_found
from console.sandbox.ids import new_id
from console.sandbox.nouns import Agent, Block, JsonObject, Tool
from console.sandbox.query import T, count, page, world_of
from console.sandbox.reading import read_object
from console.sandbox.wire import RELATIONS, agent_json, block_json, tool_json
from console.sandbox.world import World

VERSION = "0.16.8+postroom.sandbox"
_FUNCTION = re.compile(r"^\s*(?:async\s+)?def\s+(\w+)\s*\(", re.MULTILINE)


async def health(request: Request) -> Response:
    """The version says that this is a sandbox."""
    return Answer({"version": VERSION, "status": "ok", "mode": world_of(request).mode.value})


async def create_block(request: Request) -> Response:
    """Create a block; its limit is not enforced."""
    world, body = world_of(request), await read_object(request)
    block = Block(new_id("block"), str(body.get("label")), str(body.get("value") or ""), 100_000)
    _fill(block, body)
    world.blocks[block.id] = block
    return Answer(block_json(block))


async def list_blocks(request: Request) -> Response:
    """Blocks, by label or name of the block."""
    query = request.query_params
    rows = [each for each in world_of(request).blocks.values() if query.get("label") in {None, each.label}]
    rows = _page(request, rows)
    return Answer([block_json(each) for each in rows])


async def retrieve_block(request: Request) -> Response:
    """One block."""
    return Answer(block_json(_block(request)))


async def update_block(request: Request) -> Response:
    """Change a block for everybody who shares it."""
    block = _block(request)
    _fill(block, await read_object(request))
    return Answer(block_json(block))


async def delete_block(request: Request) -> Response:
    """Delete a block, which detaches it."""
    world, block = world_of(request), _block(request)
    del world.blocks[block.id]
    for agent in world.agents.values():
        if block.id in agent.block_ids:
            agent.block_ids.remove(block.id)
    return Answer(None)


async def list_agent_blocks(request: Request) -> Response:
    """The blocks of an agent."""
    world, agent = _agent(request)
    rows = [world.blocks[each] for each in agent.block_ids]
    return Answer([block_json(each) for each in _page(request, rows)])


async def retrieve_agent_block(request: Request) -> Response:
    """A block of an agent, by its label."""
    return Answer(block_json(_labelled(request)))


async def update_agent_block(request: Request) -> Response:
    """Change a block of an agent, by its label."""
    block = _labelled(request)
    _fill(block, await read_object(request))
    return Answer(block_json(block))


async def attach_block(request: Request) -> Response:
    """Attach; twice is harmless, a second block with the same label is refused."""
    (world, agent), block = _agent(request), _block(request)
    if block.id not in agent.block_ids:
        if any(world.blocks[each].label == block.label for each in agent.block_ids):
            text = f"unique_label_per_agent: Key ({agent.id}, {block.label}) already exists."
            raise detail(409, f"A unique constraint was violated for Agent. Check your input for duplicates: {text}")
        agent.block_ids.append(block.id)
    return Answer(agent_json(world, agent, RELATIONS))


async def detach_block(request: Request) -> Response:
    """Detach."""
    (world, agent), block = _agent(request), _block(request)
    agent.block_ids = [each for each in agent.block_ids if each != block.id]
    return Answer(agent_json(world, agent, RELATIONS))


async def list_tools(request: Request) -> Response:
    """Tools, by name if asked."""
    query = request.query_params
    names = frozenset([query["name"]] if "name" in query else query.getlist("names"))
    rows = [each for each in world_of(request).tools.values() if not names or each.name in names]
    rows = _page(request, rows)
    return Answer([tool_json(each) for each in rows])


async def create_tool(request: Request) -> Response:
    """Create a tool from its source; the function's name is the tool's name."""
    world, body = world_of(request), await read_object(request)
    source = str(body.get("source_code") or "")
    found = _FUNCTION.search(source)
    if found is None:
        raise detail(400, "INVALID_ARGUMENT: No function found in the source code")
    name = found.group(1)
    schema: JsonObject = {"name": name, "parameters": {"type": "object", "properties": {}}}
    approval = body.get("default_requires_approval")
    tool = Tool(new_id("tool"), name, "custom", str(body.get("description") or ""), schema, source)
    tool.requires_approval = approval if isinstance(approval, bool) else None
    return Answer(tool_json(world.add_tool(tool)))


async def retrieve_tool(request: Request) -> Response:
    """One tool."""
    return Answer(tool_json(_tool(request)))


async def delete_tool(request: Request) -> Response:
    """Delete a tool."""
    del world_of(request).tools[_tool(request).id]
    return Answer(None)


async def list_agent_tools(request: Request) -> Response:
    """The tools of an agent."""
    world, agent = _agent(request)
    rows = [world.tools[each] for each in agent.tool_ids if each in world.tools]
    return Answer([tool_json(each) for each in _page(request, rows)])


async def attach_tool(request: Request) -> Response:
    """Attach a tool."""
    (world, agent), tool = _agent(request), _tool(request)
    if tool.id not in agent.tool_ids:
        agent.tool_ids.append(tool.id)
    return Answer(agent_json(world, agent, RELATIONS))


async def detach_tool(request: Request) -> Response:
    """Detach a tool."""
    (world, agent), tool = _agent(request), _tool(request)
    agent.tool_ids = [each for each in agent.tool_ids if each != tool.id]
    return Answer(agent_json(world, agent, RELATIONS))


def _page(request: Request, rows: list[T]) -> list[T]:
    """Paged, or the SDK's iteration would never end."""
    query = request.query_params
    return page(rows, after=query.get("after"), before=query.get("before"), limit=count(request, "limit", 50))


def _agent(request: Request) -> tuple[World, Agent]:
    world = world_of(request)
    return world, world.agent(request.path_params["agent_id"])


def _block(request: Request) -> Block:
    block_id = request.path_params["block_id"]
    found = world_of(request).blocks.get(block_id)
    if found is None:
        raise detail(404, f"Block with id '{block_id}' not found")
    return found


def _labelled(request: Request) -> Block:
    (world, agent), label = _agent(request), request.path_params["label"]
    for block_id in agent.block_ids:
        if world.blocks[block_id].label == label:
            return world.blocks[block_id]
    raise detail(404, f"No block with label '{label}' found for agent '{agent.id}'")


def _tool(request: Request) -> Tool:
    tool_id = request.path_params["tool_id"]
    found = world_of(request).tools.get(tool_id)
    if found is None:
        raise _tool_unknown(tool_id)
    return found


def _tool_unknown(tool_id: str) -> Refusal:
    return not_found("Tool", tool_id)


def _fill(block: Block, body: JsonObject) -> None:
    for name in ("label", "value", "description"):
        if body.get(name) is not None:
            setattr(block, name, str(body[name]))
    if isinstance(limit := body.get("limit"), int):
        block.limit = limit
    if isinstance(read_only := body.get("read_only"), bool):
        block.read_only = read_only
    if isinstance(tags := body.get("tags"), list):
        block.tags = [str(each) for each in tags]
    if isinstance(metadata := body.get("metadata"), dict):
        block.metadata = metadata


_CORE = "/v1/agents/{agent_id}/core-memory/blocks"
ROUTES = [
    Route("/v1/health/", health, methods=["GET"]),
    Route("/v1/blocks/", create_block, methods=["POST"]),
    Route("/v1/blocks/", list_blocks, methods=["GET"]),
    Route("/v1/blocks/{block_id}", retrieve_block, methods=["GET"]),
    Route("/v1/blocks/{block_id}", update_block, methods=["PATCH"]),
    Route("/v1/blocks/{block_id}", delete_block, methods=["DELETE"]),
    Route(_CORE, list_agent_blocks, methods=["GET"]),
    Route(_CORE + "/{label}", retrieve_agent_block, methods=["GET"]),
    Route(_CORE + "/{label}", update_agent_block, methods=["PATCH"]),
    Route(_CORE + "/attach/{block_id}", attach_block, methods=["PATCH"]),
    Route(_CORE + "/detach/{block_id}", detach_block, methods=["PATCH"]),
    Route("/v1/tools/", list_tools, methods=["GET"]),
    Route("/v1/tools/", create_tool, methods=["POST", "PUT"]),
    Route("/v1/tools/{tool_id}", retrieve_tool, methods=["GET"]),
    Route("/v1/tools/{tool_id}", delete_tool, methods=["DELETE"]),
    Route("/v1/agents/{agent_id}/tools", list_agent_tools, methods=["GET"]),
    Route("/v1/agents/{agent_id}/tools/attach/{tool_id}", attach_tool, methods=["PATCH"]),
    Route("/v1/agents/{agent_id}/tools/detach/{tool_id}", detach_tool, methods=["PATCH"]),
]
