"""Agents: create, list, retrieve, update, delete, count, and the list of all tags."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from console.sandbox.answers import Answer
from console.sandbox.errors import detail, invalid, not_found
from console.sandbox.ids import new_id
from console.sandbox.nouns import SYSTEM_PROMPT, Agent, Block, JsonObject
from console.sandbox.query import count, flag, one_of, page, several, world_of
from console.sandbox.reading import read_object
from console.sandbox.wire import RELATIONS, agent_json
from console.sandbox.world import BASE_TOOLS, World

_MODELS = ("openai-proxy/stub-chat", "openai-proxy/stub-chat-2")
_RULES = frozenset(
    {
        "run_first",
        "constrain_child_tools",
        "parent_last_tool",
        "conditional",
        "exit_loop",
        "continue_loop",
        "max_count_per_step",
        "required_before_exit",
        "requires_approval",
    }
)


async def create(request: Request) -> Response:
    """Create an agent. Neither idempotent nor unique, as on the real server."""
    world, body = world_of(request), await read_object(request)
    tool_ids, rules = _tool_ids(world, body), _rules(body)
    agent = world.add_agent(
        str(body.get("name") or f"Agent-{len(world.agents)}"),
        _model(body),
        str(body.get("agent_type") or "letta_v1_agent"),
        str(body.get("system") or SYSTEM_PROMPT),
    )
    agent.tool_ids, agent.tool_rules = tool_ids, rules
    _fill(agent, body)
    for block_id in _strings(body.get("block_ids")):
        if block_id not in world.blocks:
            raise not_found("Block", block_id)
        agent.block_ids.append(block_id)
    for each in _objects(body.get("memory_blocks")):
        block = Block(new_id("block"), str(each.get("label")), str(each.get("value") or ""), 100_000)
        world.blocks[block.id] = block
        agent.block_ids.append(block.id)
    return Answer(agent_json(world, agent, RELATIONS))


async def list_agents(request: Request) -> Response:
    """A page of agents, newest first unless asked otherwise. Several tags mean OR unless match_all_tags."""
    world, include = world_of(request), _include(request)
    order = one_of(request, "order", ("desc", "asc"))
    order_by = one_of(request, "order_by", ("created_at", "updated_at", "last_run_completion"))
    rows = _matching(request, world)
    if order_by == "updated_at":
        rows.sort(key=lambda agent: agent.updated_at)
    if order == "desc" and not flag(request, "ascending"):
        rows.reverse()
    query = request.query_params
    rows = page(rows, after=query.get("after"), before=query.get("before"), limit=count(request, "limit", 50))
    return Answer([agent_json(world, agent, include) for agent in rows])


async def retrieve(request: Request) -> Response:
    """One agent."""
    world, include = world_of(request), _include(request)
    return Answer(agent_json(world, world.agent(request.path_params["agent_id"]), include))


async def update(request: Request) -> Response:
    """Change what is given; tags replace the whole list."""
    world, body = world_of(request), await read_object(request)
    agent = world.agent(request.path_params["agent_id"])
    if body.get("tool_ids") is not None:
        agent.tool_ids = _strings(body["tool_ids"])
    if body.get("tool_rules") is not None:
        agent.tool_rules = _rules(body)
    if body.get("name"):
        agent.name = str(body["name"])
    if body.get("message_ids") is not None:
        _rewrite(agent, _strings(body["message_ids"]))
    _fill(agent, body)
    agent.updated_at = world.clock.now()
    return Answer(agent_json(world, agent, RELATIONS))


async def delete(request: Request) -> Response:
    """Delete an agent; its runs stay."""
    world = world_of(request)
    agent = world.agent(request.path_params["agent_id"])
    del world.agents[agent.id]
    return Answer({"message": f"Agent id={agent.id} successfully deleted"})


async def count_agents(request: Request) -> Response:
    """How many agents match."""
    return Answer(len(_matching(request, world_of(request))))


async def list_tags(request: Request) -> Response:
    """All tags in use, sorted."""
    return Answer(sorted({tag for agent in world_of(request).agents.values() for tag in agent.tags}))


def _matching(request: Request, world: World) -> list[Agent]:
    query = request.query_params
    rows = list(world.agents.values())
    tags = set(query.getlist("tags"))
    if tags and flag(request, "match_all_tags"):
        rows = [agent for agent in rows if tags.issubset(agent.tags)]
    elif tags:
        rows = [agent for agent in rows if not tags.isdisjoint(agent.tags)]
    if name := query.get("name"):
        rows = [agent for agent in rows if agent.name == name]
    if text := query.get("query_text", "").lower():
        rows = [agent for agent in rows if text in agent.name.lower()]
    return rows


def _include(request: Request) -> frozenset[str]:
    """What to fill in: everything for a client that is not the SDK, only what was asked for with it."""
    asked = several(request, "include", RELATIONS)
    agent = request.headers.get("user-agent")
    if asked or "x-stainless-package-version" in request.headers or not agent:
        return frozenset(asked)
    return RELATIONS


def _rewrite(agent: Agent, message_ids: list[str]) -> None:
    """Put other messages into the agent's context, unchecked, as the real server does."""
    agent.thread.message_ids = message_ids
    known = {message.id: message for message in agent.messages}
    details = [known[each].details for each in message_ids if each in known]
    calls = [call["tool_call_id"] for each in details if isinstance(call := each.get("tool_call"), dict)]
    results = [each["tool_call_id"] for each in details if "tool_return" in each]
    agent.thread.whole = calls == results


def _model(body: JsonObject) -> str:
    config = body.get("llm_config")
    model = body.get("model") or (config.get("handle") if isinstance(config, dict) else None)
    if not model:
        raise detail(400, "INVALID_ARGUMENT: Must specify either model or llm_config in request")
    if not str(model).startswith("sandbox/") and model not in _MODELS:
        raise detail(404, f"NOT_FOUND: Handle {model} not found, must be one of {list(_MODELS)}")
    return str(model)


def _tool_ids(world: World, body: JsonObject) -> list[str]:
    names = _strings(body.get("tools"))
    if body.get("include_base_tools", True):
        names = [*BASE_TOOLS, *names]
    by_name = {tool.name: tool.id for tool in world.tools.values()}
    unknown = {name for name in names if name not in by_name}
    if unknown:
        raise detail(400, f"Tools not found by name: {unknown}")
    return [*dict.fromkeys(by_name[name] for name in names), *_strings(body.get("tool_ids"))]


def _rules(body: JsonObject) -> list[JsonObject]:
    rules = _objects(body.get("tool_rules"))
    for index, rule in enumerate(rules):
        if rule.get("type") not in _RULES:
            message = f"Input tag {rule.get('type')!r} found using 'type' does not match any of the expected tags"
            place = ("body", "tool_rules", index)
            raise invalid([{"type": "union_tag_invalid", "loc": place, "msg": message, "input": rule}])
    return rules


def _fill(agent: Agent, body: JsonObject) -> None:
    if body.get("tags") is not None:
        agent.tags = list(dict.fromkeys(_strings(body["tags"])))
    metadata = body.get("metadata")
    if isinstance(metadata, dict):
        agent.metadata = metadata
    if body.get("description") is not None:
        agent.description = str(body["description"])
    if isinstance(hidden := body.get("hidden"), bool):
        agent.hidden = hidden


def _strings(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def _objects(value: object) -> list[JsonObject]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


ROUTES = [
    Route("/v1/agents/", create, methods=["POST"]),
    Route("/v1/agents/", list_agents, methods=["GET"]),
    Route("/v1/agents/count", count_agents, methods=["GET"]),
    Route("/v1/agents/{agent_id}", retrieve, methods=["GET"]),
    Route("/v1/agents/{agent_id}", update, methods=["PATCH"]),
    Route("/v1/agents/{agent_id}", delete, methods=["DELETE"]),
    Route("/v1/tags/", list_tags, methods=["GET"]),
]
