"""The admin API of the sandbox, outside /v1: switch faults on, read what happened, break things."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from console.sandbox.answers import Answer
from console.sandbox.behaviour import Behaviour, parse_behaviour
from console.sandbox.errors import detail
from console.sandbox.ids import new_id
from console.sandbox.nouns import Agent, JsonObject, Message, Pending
from console.sandbox.query import world_of
from console.sandbox.reading import read_object
from console.sandbox.seed import DEMO_MODEL as SEED_MODEL
from console.sandbox.world import World


async def set_agent_behaviour(request: Request) -> Response:
    """Replace one agent's faults. `pending_approval` and `forget_runs` act at once instead."""
    world, body = world_of(request), await read_object(request)
    agent = world.agent(request.path_params["agent_id"])
    if body.pop("pending_approval", False):
        _ask_for_approval(world, agent)
    if body.pop("forget_runs", False):
        world.forget_runs(agent.id)
    agent.behaviour = _parsed(body)
    agent.gate.limit = agent.behaviour.max_concurrent if agent.behaviour else 0
    agent.gate.wake()
    return Answer({"ok": True})


async def make_agents(request: Request) -> Response:
    """Make `count` agents at once: `prefix` and a number as name, the given tags."""
    world, body = world_of(request), await read_object(request)
    tags = body.get("tags")
    for number in range(int(str(body.get("count", 1)))):
        agent = world.add_agent(f"{body.get('prefix', 'agent')}-{number}", SEED_MODEL)
        agent.tags = [str(tag) for tag in tags] if isinstance(tags, list) else []
    return Answer({"ok": True})


async def set_behaviour(request: Request) -> Response:
    """Replace the faults of the whole server. `forget_runs` and `crash` act at once instead."""
    world, body = world_of(request), await read_object(request)
    if body.pop("crash", False):
        world.waits.crash()
    if body.pop("forget_runs", False):
        world.forget_runs()
    world.behaviour = _parsed(body)
    world.gate.limit = world.behaviour.max_concurrent if world.behaviour else 0
    world.gate.wake()
    return Answer({"ok": True})


async def advance_clock(request: Request) -> Response:
    """Age locks and otid mappings."""
    body = await read_object(request)
    world_of(request).clock.advance(float(str(body.get("seconds", 0))))
    return Answer({"ok": True})


async def state(request: Request) -> Response:
    """Turns, requests and the most turns ever in flight, per agent and in all."""
    return Answer(world_of(request).state())


async def reset(request: Request) -> Response:
    """Forget everything."""
    world_of(request).reset()
    return Answer({"ok": True})


def _parsed(body: JsonObject) -> Behaviour | None:
    try:
        return parse_behaviour(body) if body else None
    except ValueError as error:
        raise detail(422, str(error)) from None


def _ask_for_approval(world: World, agent: Agent) -> None:
    """Leave the agent as a run leaves it that stopped at a tool call which needs approval."""
    call: JsonObject = {
        "name": "sandbox_tool",
        "arguments": "{}",
        "tool_call_id": f"call_{new_id('x')[2:26]}",
    }
    request = Message(new_id("message"), "approval_request_message", world.clock.now(), step_id=new_id("step"))
    request.otid = request.id
    request.details = {"tool_call": call, "tool_calls": [call]}
    agent.keep(request)
    agent.thread.message_ids = [*agent.thread.message_ids, request.id]
    agent.thread.pending = Pending(request, call, "", 0, str(request.step_id))
    agent.last_stop_reason = "requires_approval"


ROUTES = [
    Route("/_sandbox/agents", make_agents, methods=["POST"]),
    Route("/_sandbox/agents/{agent_id}/behaviour", set_agent_behaviour, methods=["POST"]),
    Route("/_sandbox/behaviour", set_behaviour, methods=["POST"]),
    Route("/_sandbox/clock", advance_clock, methods=["POST"]),
    Route("/_sandbox/state", state, methods=["GET"]),
    Route("/_sandbox/reset", reset, methods=["POST"]),
]
