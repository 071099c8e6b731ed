"""Conversations: a second context of an agent; and "default", the one locked and de-duplicated way to it."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from console.sandbox.answers import Answer
from console.sandbox.calls import blocking, blocking_locked, received, resume, streaming, turn_of
from console.sandbox.errors import Refusal, detail, malformed_path, no_background, not_found
from console.sandbox.ids import CONVERSATION_PATTERN, is_agent_id, is_conversation_id, new_id
from console.sandbox.nouns import Agent, Conversation, Message
from console.sandbox.query import chronological_page, count, one_of, page, several, world_of
from console.sandbox.reading import read_object, read_turn
from console.sandbox.routes_messages import ascending_page, cancel_run
from console.sandbox.wire import conversation_json, message_json
from console.sandbox.world import World


async def create(request: Request) -> Response:
    """Start a conversation."""
    world, body = world_of(request), await read_object(request)
    agent = world.agents.get(request.query_params.get("agent_id", ""))
    if agent is None:
        raise detail(404, "Agent not found")
    now, summary = world.clock.now(), body.get("summary")
    conversation = Conversation(new_id("conv"), agent.id, now, now, None if summary is None else str(summary))
    answer = Answer(conversation_json(conversation))
    world.conversations[conversation.id] = conversation
    conversation.thread = world.new_thread(agent, conversation.id)
    return answer


async def list_conversations(request: Request) -> Response:
    """Conversations (of one agent), newest first."""
    world, agent_id = world_of(request), request.query_params.get("agent_id")
    rows = [each for each in world.conversations.values() if agent_id in {None, each.agent_id}]
    if one_of(request, "order", ("desc", "asc")) == "desc":
        rows.reverse()
    rows = page(rows, after=request.query_params.get("after"), before=None, limit=count(request, "limit", 50))
    return Answer([conversation_json(each) for each in rows])


async def retrieve(request: Request) -> Response:
    """One conversation."""
    world = world_of(request)
    return Answer(conversation_json(world.conversation(_conversation_id(request))))


async def delete(request: Request) -> Response:
    """Delete a conversation."""
    world = world_of(request)
    del world.conversations[world.conversation(_conversation_id(request)).id]
    return Answer(None)


async def send(request: Request) -> Response:
    """conversations.messages.create: a stream unless streaming is false."""
    world, name = world_of(request), _conversation_id(request)
    body = await read_turn(request)
    agent, conversation = _resolve(world, name, body.agent_id)
    cut = received(world, agent, "conversations.messages", body)
    if cut is not None:
        return cut
    if conversation is not None:
        conversation.last_message_at = world.clock.now()
    run_type = "send_message" if conversation is None else "send_conversation_message"
    if body.streaming is not False:
        return await streaming(world, agent, body, run_type, conversation, locked=True)
    if conversation is None:
        return await blocking_locked(world, agent, body)
    run = world.add_run(agent, run_type)
    return await blocking(world, turn_of(agent, run, body, conversation), body, conversations=True)


async def resume_stream(request: Request) -> Response:
    """conversations.messages.stream: read a run's stream again, by run id, by otid, or the active one."""
    world, name, body = world_of(request), _conversation_id(request), await read_object(request)
    if not world.has_redis:
        raise no_background()
    after, pings = int(str(body.get("starting_after") or 0)), bool(body.get("include_pings"))
    if body.get("run_id"):
        return resume(world, world.run(str(body["run_id"])), after=after, pings=pings)
    if body.get("otid"):
        run_id = world.redis.run_of(str(body["otid"]))
        if run_id is None:
            text = f"No run found for otid={body['otid']}. The run may have expired or never existed."
            raise detail(404, text)
        return resume(world, world.run(run_id), after=after, pings=pings)
    agent_id = str(body["agent_id"]) if name == "default" and body.get("agent_id") else name
    key = "agent_id" if agent_id.startswith("agent-") else "conversation_id"
    active = [run for run in world.runs.values() if run.active and getattr(run, key) == agent_id]
    if not active:
        raise detail(400, "INVALID_ARGUMENT: No active runs found for this conversation.")
    if not active[-1].background:
        text = "INVALID_ARGUMENT: Run was not created in background mode, so it cannot be retrieved."
        raise detail(400, text)
    return resume(world, active[-1], after=after, pings=pings)


async def list_messages(request: Request) -> Response:
    """Messages of a conversation, newest first; of "default" with the agents' trap (ascending pages)."""
    world, name = world_of(request), _conversation_id(request)
    agent_id = request.query_params.get("agent_id") if name == "default" else name
    if agent_id and agent_id.startswith("agent-"):
        agent = world.agents.get(agent_id)
        if agent is None:
            raise detail(404, "Agent not found")
        return Answer([message_json(each) for each in ascending_page(request, agent, "default")])
    return Answer([message_json(each) for each in _newest_first(request, world, world.conversation(name))])


async def cancel(request: Request) -> Response:
    """Cancel the active runs of a conversation, or of the agent."""
    world, name = world_of(request), _conversation_id(request)
    agent_id = request.query_params.get("agent_id") if name == "default" else name
    if agent_id and agent_id.startswith("agent-"):
        runs = [run.id for run in world.runs.values() if run.active and run.agent_id == agent_id]
    else:
        wanted = world.conversation(name).id
        runs = [run.id for run in world.runs.values() if run.active and run.conversation_id == wanted]
        world.redis.release(wanted)
    if not runs:
        raise detail(409, f"CONFLICT: No active runs to cancel for conversation {name}")
    return Answer({run_id: cancel_run(world, run_id) for run_id in runs})


def _newest_first(request: Request, world: World, conversation: Conversation) -> list[Message]:
    agent = world.agents.get(conversation.agent_id)
    kinds = frozenset(several(request, "include_return_message_types"))
    rows = [
        message
        for message in (agent.messages if agent else [])
        if message.conversation_id == conversation.id and (not kinds or message.kind in kinds)
    ]
    newest_first, query = one_of(request, "order", ("desc", "asc")) == "desc", request.query_params
    after, before, limit = query.get("after"), query.get("before"), count(request, "limit", 100)
    return chronological_page(rows, after=after, before=before, limit=limit, newest_first=newest_first)


def _resolve(world: World, name: str, agent_id: str | None) -> tuple[Agent, Conversation | None]:
    """The agent, and the conversation unless the agent's own context is meant."""
    direct = agent_id if name == "default" and agent_id else name if name.startswith("agent-") else None
    if direct is not None:
        if not is_agent_id(direct):
            text = f"INVALID_ARGUMENT: Invalid agent ID format: {direct}. Expected format: 'agent-<uuid4>'"
            raise detail(400, text)
        return world.agent(direct), None
    conversation = world.conversation(name)
    agent = world.agents.get(conversation.agent_id)
    if agent is None:
        raise not_found("Conversation", name)
    return agent, conversation


def _conversation_id(request: Request) -> str:
    name: str = request.path_params["conversation_id"]
    if not is_conversation_id(name):
        raise _malformed(name)
    return name


def _malformed(name: str) -> Refusal:
    return malformed_path("conversation_id", name, CONVERSATION_PATTERN, CONVERSATION_PATTERN)


ROUTES = [
    Route("/v1/conversations/", create, methods=["POST"]),
    Route("/v1/conversations/", list_conversations, methods=["GET"]),
    Route("/v1/conversations/{conversation_id}", retrieve, methods=["GET"]),
    Route("/v1/conversations/{conversation_id}", delete, methods=["DELETE"]),
    Route("/v1/conversations/{conversation_id}/messages", send, methods=["POST"]),
    Route("/v1/conversations/{conversation_id}/messages", list_messages, methods=["GET"]),
    Route("/v1/conversations/{conversation_id}/stream", resume_stream, methods=["POST"]),
    Route("/v1/conversations/{conversation_id}/cancel", cancel, methods=["POST"]),
]
