"""A turn from its call to its outcome."""

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest

from schemas.delivery import Cause
from schemas.outcome import AwaitsApproval, Busy, Failed, FateUnknown, Rejected, Replied, Throttled
from tests.contract.adapter.bench import TOOL, Bench


async def test_an_agent_replies(bench: Bench) -> None:
    outcome = await bench.turn(await bench.call("hello [[say good day]]"))
    assert isinstance(outcome, Replied)
    assert (outcome.text, outcome.stop_reason) == ("good day", "end_turn")
    assert outcome.usage.total_tokens > 0
    assert outcome.usage.steps == 1


async def test_tools_may_come_before_the_reply(bench: Bench) -> None:
    agent = await bench.agent(tools=[TOOL])
    outcome = await bench.turn(await bench.call(f'[[tool {TOOL} {{"query": "x"}}]] [[say found]]', agent=agent))
    assert isinstance(outcome, Replied)
    assert outcome.text == "found"
    assert outcome.usage.steps == 2


async def test_the_run_is_named_before_the_reply(bench: Bench) -> None:
    """By every server that has runs, with or without Redis."""
    named: list[str] = []
    ended = False

    async def run_named(run_id: str) -> None:
        assert not ended
        run = await bench.client.runs.retrieve(run_id)
        assert run.status in {"created", "running"}
        named.append(run_id)

    outcome = await bench.letta.turn(bench.context, await bench.call("[[delay 1]] hello"), run_named)
    ended = True
    assert isinstance(outcome, Replied)
    assert named == ([outcome.run_id] if bench.abilities.lists_runs else [])


async def test_trouble_of_whoever_stores_the_run_id_is_not_the_servers(joining: Bench) -> None:
    async def run_named(run_id: str) -> None:
        raise ConnectionError("Redis is away")

    with pytest.raises(ConnectionError, match="Redis is away"):
        await joining.letta.turn(joining.context, await joining.call("[[delay 0.2]] hello"), run_named)


async def test_the_same_otid_joins_the_running_turn_and_replays_it(joining: Bench) -> None:
    call = await joining.call("[[delay 1]] once")
    first, second = await asyncio.gather(joining.turn(call), joining.turn(call))
    third = await joining.turn(call)
    assert isinstance(first, Replied)
    assert first == second == third
    assert await joining.heard(call) == 1


async def test_a_cancelled_caller_does_not_stop_the_turn(bench: Bench) -> None:
    call = await bench.call("[[delay 1]] [[say still here]]")
    task = asyncio.create_task(bench.turn(call))
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    fate = await bench.look(call)
    assert "still here" in repr(fate)


async def test_a_named_conversation_has_its_own_turns(bench: Bench) -> None:
    agent = await bench.agent()
    conversation = (await bench.client.conversations.create(agent_id=agent)).id
    outcome = await bench.turn(await bench.call("[[say aside]]", agent=agent, conversation=conversation))
    assert isinstance(outcome, Replied)
    assert outcome.text == "aside"


async def test_an_agent_with_a_turn_is_busy(joining: Bench) -> None:
    call = await joining.call("[[delay 2]] first")
    named = asyncio.Event()

    async def run_named(run_id: str) -> None:
        named.set()

    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(joining.letta.turn(joining.context, call, run_named))
        await named.wait()
        second = await joining.turn(await joining.call("second", agent=call.agent))
    running = first.result()
    assert isinstance(running, Replied)
    assert isinstance(second, Busy)
    assert second.run_id == running.run_id


async def test_an_agent_that_awaits_approval_says_so(bench: Bench) -> None:
    rules = [{"type": "requires_approval", "tool_name": TOOL}]
    agent = await bench.agent(tools=[TOOL], tool_rules=rules)
    asked = await bench.turn(await bench.call(f'[[tool {TOOL} {{"query": "x"}}]]', agent=agent))
    assert isinstance(asked, Replied)
    assert (asked.text, asked.stop_reason) == ("", "requires_approval")
    call = await bench.call("next", agent=agent)
    assert isinstance(await bench.turn(call), AwaitsApproval)
    assert await bench.heard(call) == 0


async def test_an_agent_that_is_gone_is_unknown(bench: Bench) -> None:
    call = await bench.call("hello")
    await bench.delete(call.agent)
    for agent in (call.agent, f"agent-{uuid4()}", "agent-00000000-0000-1000-8000-000000000000", "support"):
        outcome = await bench.turn(replace(call, agent=agent))
        assert isinstance(outcome, Rejected), agent
        assert outcome.cause is Cause.UNKNOWN_AGENT


async def test_a_conversation_that_is_gone_is_rejected(bench: Bench) -> None:
    outcome = await bench.turn(await bench.call("hello", conversation=f"conv-{uuid4()}"))
    assert isinstance(outcome, Rejected)
    assert outcome.cause is Cause.REJECTED


async def test_the_models_quota_pauses_the_agent_alone(bench: Bench) -> None:
    outcome = await bench.turn(await bench.call("[[status 429]]"))
    assert isinstance(outcome, Throttled)
    assert not outcome.whole_tenant


async def test_what_the_model_refuses_is_rejected(bench: Bench) -> None:
    outcome = await bench.turn(await bench.call("[[status 400]]"))
    assert isinstance(outcome, Rejected)
    assert outcome.cause is Cause.REJECTED


@pytest.mark.parametrize("status", [500, 401, 404])
async def test_a_model_that_fails_costs_an_attempt(bench: Bench, status: int) -> None:
    outcome = await bench.turn(await bench.call(f"[[status {status}]]"))
    assert isinstance(outcome, Failed)
    assert outcome.counts


async def test_a_turn_without_end_is_cut_by_its_total_deadline(bench: Bench) -> None:
    call = await bench.call(f"[[delay {3 * bench.pace}]] hello", deadline=0.8 * bench.pace)
    clock = asyncio.get_running_loop()
    since = clock.time()
    outcome = await bench.turn(call)
    assert clock.time() - since < 1.5 * bench.pace
    assert isinstance(outcome, FateUnknown)
    assert (outcome.run_id is not None) == bench.abilities.lists_runs
    # Seen to its end, so that nothing runs on into the next test.
    await bench.look(call, outcome.run_id)
