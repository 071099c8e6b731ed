"""Messages of an agent: send (blocking, streamed, asynchronous), list, cancel."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from console.sandbox.answers import Answer
from console.sandbox.calls import asynchronous, blocking, received, streaming, turn_of
from console.sandbox.errors import Refusal, detail
from console.sandbox.nouns import Agent, Decision, Message, Run
from console.sandbox.query import count, one_of, several, world_of
from console.sandbox.reading import check_streaming_options, read_object, read_turn
from console.sandbox.turns import denial
from console.sandbox.wire import message_json, run_json
from console.sandbox.world import World

_KINDS = frozenset(
    {
        "system_message",
        "user_message",
        "assistant_message",
        "reasoning_message",
        "hidden_reasoning_message",
        "tool_call_message",
        "tool_return_message",
        "approval_request_message",
        "approval_response_message",
        "summary_message",
        "event_message",
    }
)
_DENIED_BY_CANCEL = "The user cancelled the request, so the tool call was denied."


async def send(request: Request) -> Response:
    """agents.messages.create: no lock and no de-duplication, whatever the otid."""
    world, agent_id = world_of(request), request.path_params["agent_id"]
    agent, body = world.agents.get(agent_id) or world.agent(agent_id), await read_turn(request)
    if not body.streaming:
        check_streaming_options(body)
    elif "x-stainless-package-version" not in request.headers and request.headers.get("user-agent"):
        raise detail(422, "streaming=true is only supported for SDK v1.0+ clients.")
    cut = received(world, agent, "agents.messages", body)
    if cut is not None:
        return cut
    if body.streaming:
        return await streaming(world, agent, body, "send_message", None, locked=False)
    run = world.add_run(agent, "send_message")
    return await blocking(world, turn_of(agent, run, body), body)


async def stream(request: Request) -> Response:
    """agents.messages.stream: the older way to ask for a stream."""
    world, body = world_of(request), await read_turn(request)
    agent = world.agent(request.path_params["agent_id"])
    cut = received(world, agent, "agents.messages.stream", body)
    return cut or await streaming(world, agent, body, "send_message", None, locked=False)


async def send_async(request: Request) -> Response:
    """agents.messages.create_async: accepted at once, run on the server's own account."""
    world = world_of(request)
    if not world.has_runs:
        raise detail(404, "Not Found")
    agent, body = _agent(world, request), await read_turn(request)
    cut = received(world, agent, "agents.messages.async", body)
    if cut is not None:
        return cut
    run = world.add_run(agent, "send_message_async", background=True, asynchronous=True)
    run.callback_url = body.callback_url
    accepted = Answer(run_json(run))
    asynchronous(world, turn_of(agent, run, body))
    return accepted


async def list_messages(request: Request) -> Response:
    """Messages of an agent, those of its conversations too; see `ascending_page` for the trap in it."""
    world = world_of(request)
    return Answer([message_json(each) for each in ascending_page(request, _agent(world, request), None)])


async def cancel(request: Request) -> Response:
    """Cancel runs. With Redis and without ids: the agent's last run, even if it ended long ago."""
    world, body = world_of(request), await read_object(request)
    agent = world.agent(request.path_params["agent_id"])
    wanted = body.get("run_ids")
    run_ids = [str(each) for each in wanted] if isinstance(wanted, list) else []
    if not run_ids and world.has_redis and agent.id in world.redis.last_run:
        run_ids = [world.redis.last_run[agent.id]]
    elif not run_ids:
        run_ids = [run.id for run in world.runs.values() if run.agent_id == agent.id and run.active]
    if not run_ids:
        raise detail(409, f"CONFLICT: No active runs to cancel for agent {agent.id}")
    return Answer({run_id: cancel_run(world, run_id) for run_id in run_ids})


def cancel_run(world: World, run_id: str) -> str:
    """Cancel one run. A finished step lands all the same; a pending tool call of the agent is denied."""
    run = world.runs.get(run_id)
    if run is None or not world.has_runs:
        return "failed"
    if run.stop_reason not in {None, "requires_approval"}:
        return "cancelled"
    run.settle("cancelled", "cancelled", world.clock.now())
    agent = world.agents.get(run.agent_id)
    if agent is not None and agent.thread.pending is not None:
        _deny(world, agent, run)
    return "cancelled"


def ascending_page(request: Request, agent: Agent, only: str | None) -> list[Message]:
    """The newest N by default, but ascending inside the page, so a client that pages on from the last stops.

    `only` is None for all, "default" for what belongs to no conversation.
    """
    order = one_of(request, "order", ("desc", "asc"))
    kinds = frozenset(several(request, "include_return_message_types", _KINDS))
    limit = count(request, "limit", 100)
    conversation_id = request.query_params.get("conversation_id", only)
    rows = agent.messages
    start, end = 0, len(rows)
    if after := request.query_params.get("after"):
        start = _position(agent, after) + 1
    if before := request.query_params.get("before"):
        end = _position(agent, before)
    chosen = [row for row in rows[start:end] if (not kinds or row.kind in kinds) and _belongs(row, conversation_id)]
    if order == "asc":
        return chosen[:limit]
    return chosen[-limit:] if limit else []


def _belongs(message: Message, conversation_id: str | None) -> bool:
    if conversation_id is None:
        return True
    return message.conversation_id == (None if conversation_id == "default" else conversation_id)


def _position(agent: Agent, message_id: str) -> int:
    for index, message in enumerate(agent.messages):
        if message.id == message_id:
            return index
    raise detail(404, f"No message found with id '{message_id}' for agent '{agent.id}'.")


def _agent(world: World, request: Request) -> Agent:
    """These endpoints know a shorter 404."""
    try:
        return world.agent(request.path_params["agent_id"])
    except Refusal as refusal:
        if refusal.status == 404:  # noqa: PLR2004 - an HTTP status
            raise detail(404, "Agent not found") from None
        raise


def _deny(world: World, agent: Agent, run: Run) -> None:
    pending, agent.thread.pending = agent.thread.pending, None
    if pending is None:
        return
    decision = Decision(str(pending.call["tool_call_id"]), approve=False, reason=_DENIED_BY_CANCEL)
    for message in denial(world, run, pending, decision):
        agent.keep(message)
        run.messages.append(message)
        agent.thread.message_ids = [*agent.thread.message_ids, message.id]


ROUTES = [
    Route("/v1/agents/{agent_id}/messages", send, methods=["POST"]),
    Route("/v1/agents/{agent_id}/messages", list_messages, methods=["GET"]),
    Route("/v1/agents/{agent_id}/messages/stream", stream, methods=["POST"]),
    Route("/v1/agents/{agent_id}/messages/async", send_async, methods=["POST"]),
    Route("/v1/agents/{agent_id}/messages/cancel", cancel, methods=["POST"]),
]
