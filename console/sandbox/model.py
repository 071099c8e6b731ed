"""The simulated model behind the agents: how long it takes, how it fails, what its tools return."""

import json
from typing import NoReturn

from console.sandbox.behaviour import Behaviour
from console.sandbox.clock import ServerDied
from console.sandbox.directives import DROPPED, Script
from console.sandbox.errors import broken_history, llm_fault, llm_timeout
from console.sandbox.ids import new_id
from console.sandbox.nouns import Agent, Decision, JsonObject, Run, Step
from console.sandbox.world import World

LLM_ATTEMPTS = 3
LLM_GIVES_UP_SECONDS = 1_800.0
_RETRIED = frozenset({DROPPED, 408, 409, 429})
_SERVER_ERROR = 500


async def think(world: World, agent: Agent, run: Run, script: Script, step: int) -> None:
    """One call of the model, with the server's own three attempts, and everything that may go wrong in it."""
    behaviours = world.behaviours(agent)
    for behaviour in behaviours:
        if behaviour.orphan_times and step == behaviour.orphan_step and behaviour.happens("orphan"):
            await world.waits.sleep(behaviour.latency_seconds)
            raise ServerDied
        await _refuse(world, behaviour, run)
    for attempt in range(1, LLM_ATTEMPTS + 1):
        for behaviour in behaviours:
            await world.waits.sleep(behaviour.latency_seconds)
        if script.hang:
            await _hang(world)
        await world.waits.sleep(script.delay_seconds)
        status = _status_of(world, agent, script, step)
        if status is None:
            return
        if attempt == LLM_ATTEMPTS or not (status in _RETRIED or status >= _SERVER_ERROR):
            run.steps.append(Step(new_id("step"), 0, 0, "llm_api_error", failed=True))
            raise llm_fault(status)


async def _refuse(world: World, behaviour: Behaviour, run: Run) -> None:
    """The faults that end the call before any attempt."""
    if behaviour.hang_times and behaviour.happens("hang"):
        await _hang(world)
    if behaviour.llm_timeout_times and behaviour.happens("llm_timeout"):
        raise llm_timeout()
    if behaviour.broken_history_times and behaviour.happens("broken_history"):
        refuse_history(run)


def refuse_history(run: Run) -> NoReturn:
    """The model says that what the agent has behind it is malformed."""
    run.steps.append(Step(new_id("step"), 0, 0, "llm_api_error", failed=True))
    raise broken_history()


async def _hang(world: World) -> None:
    await world.waits.sleep(LLM_GIVES_UP_SECONDS)
    raise llm_timeout()


def _status_of(world: World, agent: Agent, script: Script, step: int) -> int | None:
    for behaviour in world.behaviours(agent):
        if (
            behaviour.fail_status
            and behaviour.fail_where == "llm"
            and step == behaviour.fail_step
            and behaviour.happens("fail")
        ):
            return behaviour.fail_status
    if script.status is None:
        return None
    world.llm_calls[script.text] += 1
    if script.status_times is None or world.llm_calls[script.text] <= script.status_times:
        return script.status
    return None


def simulated_return(call: JsonObject) -> str:
    """What a simulated tool returns: its name and its first argument."""
    try:
        arguments = json.loads(str(call["arguments"]))
    except ValueError:
        arguments = {}
    first = next(iter(arguments.values()), "") if isinstance(arguments, dict) else ""
    return f"{call['name']}:{first}"


def approval_response(decision: Decision) -> JsonObject:
    """The fields of the stored answer to an approval request."""
    approval = {
        "type": "approval",
        "tool_call_id": decision.call_id,
        "approve": decision.approve,
        "reason": decision.reason,
    }
    return {
        "approvals": [approval],
        "approve": decision.approve,
        "approval_request_id": decision.call_id,
        "reason": decision.reason,
    }
