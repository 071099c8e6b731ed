"""The three ways to call an agent: wait for the answer, read a stream, or leave the run to the server.

Each settles its run in its own way, because the real server does: a blocking or an asynchronous run that is
cancelled in its last step still ends as completed, a streamed one as cancelled; a failed blocking run has no
stop reason.
"""

import time

from starlette.responses import Response

from console.sandbox.answers import Answer, Cut, EventStream
from console.sandbox.clock import ServerDied
from console.sandbox.errors import Refusal, TurnFault, busy, expired, no_background, pending_approval_plain
from console.sandbox.events import DONE, EventLog, dumps, ping
from console.sandbox.ids import new_id
from console.sandbox.locks import request_token
from console.sandbox.nouns import Agent, Conversation, JsonObject, Message, Run
from console.sandbox.reading import TurnBody
from console.sandbox.turns import Ending, Turn, run_turn
from console.sandbox.wire import message_json, response_json, stop_json, usage_json
from console.sandbox.world import World

CANCEL_CHECK_SECONDS = 0.5
STREAM_TTL_SECONDS = 10_800


class _StreamCancelled(Exception):  # noqa: N818 - control flow of a stream whose run was cancelled
    pass


def received(world: World, agent: Agent, route: str, body: TurnBody) -> Cut | None:
    """Count and log a request for a turn; a fault may refuse it, or reset its connection before the turn."""
    world.gate.requests += 1
    agent.gate.requests += 1
    world.turn_log.request(agent.id, route, body.inbound[0].otid if body.inbound else None)
    for behaviour in world.behaviours(agent):
        if behaviour.busy_times and behaviour.happens("busy"):
            raise busy(new_id("run"))
        if behaviour.fail_status and behaviour.fail_where == "letta" and behaviour.happens("fail"):
            headers = {}
            if behaviour.retry_after_seconds is not None:
                headers["retry-after"] = f"{behaviour.retry_after_seconds:g}"
            raise Refusal(behaviour.fail_status, {"detail": f"sandbox fault {behaviour.fail_status}"}, headers)
        if behaviour.reset_before_times and behaviour.happens("reset_before"):
            return Cut()
    return None


def turn_of(agent: Agent, run: Run, body: TurnBody, conversation: Conversation | None = None) -> Turn:
    """The turn a request asks for."""
    thread = conversation.thread if conversation else agent.thread
    return Turn(agent, run, thread, body.inbound, body.decisions, body.max_steps, body.client_tools)


async def blocking(world: World, turn: Turn, body: TurnBody, *, conversations: bool = False) -> Response:
    """Run the turn and answer when it is over. Through the conversations API the run is never settled."""
    if _strikes(world, turn.agent, "reset_after"):
        world.task(_unheard(world, turn, settle=not conversations))
        return Cut()
    try:
        ending = await _settled(world, turn, settle=not conversations)
    except ServerDied:
        return Cut()
    except TurnFault as fault:
        if conversations and fault.refusal.status == 409:  # noqa: PLR2004 - an HTTP status
            raise pending_approval_plain() from None
        raise fault.refusal from None
    for behaviour in world.behaviours(turn.agent):
        await world.waits.sleep(behaviour.slow_first_byte_seconds)
    if _strikes(world, turn.agent, "drop"):
        return Cut()
    return Answer(response_json(ending, body.kinds))


async def blocking_locked(world: World, agent: Agent, body: TurnBody) -> Response:
    """conversations.messages.create("default", streaming=False): locked by agent, and mapped by otid."""
    if world.has_redis:
        _lock(world, agent.id, body)
    try:
        run = world.add_run(agent, "send_message")
        world.redis.remember(body.otids, run.id)
        return await blocking(world, turn_of(agent, run, body), body, conversations=True)
    finally:
        world.redis.release(agent.id)


def asynchronous(world: World, turn: Turn) -> None:
    """Run the turn on the server's own account; nobody waits for it."""
    world.task(_unheard(world, turn, settle=True))


async def streaming(
    world: World,
    agent: Agent,
    body: TurnBody,
    run_type: str,
    conversation: Conversation | None,
    *,
    locked: bool,
) -> Response:
    """Start or join a streamed run."""
    key = conversation.id if conversation else agent.id
    locked = locked and world.has_redis
    if locked:
        known = world.redis.run_of(request_token(body.otids)) if body.background and body.otids else None
        if known is not None:
            return join(world, known, pings=body.pings)
        _lock(world, key, body)
    run = world.add_run(agent, run_type, background=body.background, conversation=conversation)
    turn = turn_of(agent, run, body, conversation)
    if world.has_redis:
        world.redis.remember(body.otids, run.id)
    if body.background and not world.has_redis:
        refusal = no_background("INTERNAL_SERVER_ERROR: ")
        run.settle("failed", None, world.clock.now(), error=refusal.text)
        raise refusal
    run.status = "running"
    log = EventLog(run.id, numbered=body.background)
    if body.background:
        world.logs[run.id] = log
    if body.pings and world.has_runs:
        log.data(ping(run.id, world.clock.now()))
    world.task(_stream(world, turn, log, body, key if locked else None))
    for behaviour in world.behaviours(agent):
        await world.waits.sleep(behaviour.slow_first_byte_seconds)
    cut = "first" if _strikes(world, agent, "reset_after") else "last" if _strikes(world, agent, "drop") else ""
    return EventStream(log.read(world.clock, pings=body.pings), cut=cut)


def resume(world: World, run: Run, *, after: int, pings: bool) -> Response:
    """Read a run's stream again, unless it is too old."""
    if run.at < world.clock.now() - STREAM_TTL_SECONDS:
        raise expired()
    return join(world, run.id, after=after, pings=pings)


def join(world: World, run_id: str, *, after: int = 0, pings: bool = True) -> Response:
    """Read a run's stream from Redis. A run that never wrote there makes the reader wait for ever."""
    log = world.logs.setdefault(run_id, EventLog(run_id, numbered=True))
    return EventStream(log.read(world.clock, after=after, pings=pings))


def _lock(world: World, key: str, body: TurnBody) -> None:
    holder = world.redis.acquire(key, request_token(body.otids))
    if holder is not None:
        raise busy(world.redis.run_of(holder))


async def _settled(world: World, turn: Turn, *, settle: bool) -> Ending:
    run = turn.run
    try:
        ending = await run_turn(world, turn)
    except TurnFault as fault:
        if settle:
            run.settle("failed", "error" if run.asynchronous else None, world.clock.now(), error=fault.text)
        raise
    if settle:
        status = "cancelled" if ending.stop_reason == "cancelled" else "completed"
        run.settle(status, ending.stop_reason, world.clock.now())
    return ending


async def _unheard(world: World, turn: Turn, *, settle: bool) -> None:
    try:
        await _settled(world, turn, settle=settle)
    except (TurnFault, ServerDied):
        return


async def _stream(world: World, turn: Turn, log: EventLog, body: TurnBody, lock_key: str | None) -> None:
    run = turn.run
    teller = _Teller(run, log, body)
    try:
        ending = await run_turn(world, turn, teller.message)
        teller.tell(stop_json(ending.stop_reason))
        teller.tell(usage_json(ending.usage))
        status = "cancelled" if ending.stop_reason == "cancelled" else "completed"
        _unlock(world, lock_key)
        run.settle(status, ending.stop_reason, world.clock.now())
        log.line(DONE, complete=True)
    except _StreamCancelled:
        log.line(f"data: {dumps(stop_json('cancelled'))}\n\n")
        _unlock(world, lock_key)
        if run.background:
            log.line(DONE, complete=True)
    except TurnFault as fault:
        error = _error_event(run, fault)
        _unlock(world, lock_key)
        run.settle("failed", fault.stop, world.clock.now(), error=error)
        log.data(stop_json(fault.stop))
        log.failure(error)
        log.line(DONE, complete=True)
    except ServerDied:
        log.die()
        return
    log.close()


class _Teller:
    """Writes a run's events and notices a cancellation as late as the real server does."""

    def __init__(self, run: Run, log: EventLog, body: TurnBody) -> None:
        self._run, self._log, self._kinds = run, log, body.kinds
        self._checked = time.monotonic()

    def message(self, message: Message) -> None:
        if self._kinds is None or message.kind in self._kinds:
            self.tell(message_json(message))

    def tell(self, body: JsonObject) -> None:
        now = time.monotonic()
        if now - self._checked >= CANCEL_CHECK_SECONDS:
            self._checked = now
            if self._run.status == "cancelled":
                raise _StreamCancelled
        self._log.data(body)


def _error_event(run: Run, fault: TurnFault) -> JsonObject:
    return {
        "message_type": "error_message",
        "run_id": run.id,
        "error_type": fault.stream_type,
        "message": fault.stream_message,
        "detail": fault.text,
        "seq_id": None,
    }


def _unlock(world: World, lock_key: str | None) -> None:
    if lock_key is not None:
        world.redis.release(lock_key)


def _strikes(world: World, agent: Agent, fault: str) -> bool:
    return any(behaviour.happens(fault) for behaviour in world.behaviours(agent))
