"""Runs: the way back to the truth after a crash or a timeout, with the places where it lies."""

import asyncio
from typing import Any
from uuid import uuid4

import letta_client
import pytest

from tests.contract.server.target import Target, body_of, fresh, texts, user


async def test_create_async_accepts_at_once_and_the_run_completes(run_server: Target) -> None:
    agent_id, otid = await run_server.agent(), fresh("otid")
    run = await run_server.client.agents.messages.create_async(agent_id, messages=user("[[say later]]", otid))
    assert (run.status, run.background, run.stop_reason) == ("created", True, None)
    assert run.metadata["run_type"] == "send_message_async"
    done = await run_server.run_with_status(agent_id, "completed")
    assert (done.id, done.stop_reason) == (run.id, "end_turn")
    assert done.completed_at is not None
    landed = (await run_server.client.runs.messages.list(run.id)).items
    assert [message.message_type for message in landed] == ["user_message", "assistant_message"]
    assert (landed[0].otid, landed[1].content) == (otid, "later")


async def test_create_async_has_no_lock_and_no_deduplication(run_server: Target) -> None:
    agent_id, otid = await run_server.agent(), fresh("otid")
    create = run_server.client.agents.messages.create_async
    first, second = [await create(agent_id, messages=user("same", otid)) for _ in range(2)]
    assert first.id != second.id


async def test_create_async_and_lists_know_a_shorter_404(run_server: Target) -> None:
    unknown = f"agent-{uuid4()}"
    with pytest.raises(letta_client.NotFoundError) as caught:
        await run_server.client.agents.messages.create_async(unknown, messages=user("x"))
    assert body_of(caught) == {"detail": "Agent not found"}
    with pytest.raises(letta_client.NotFoundError) as caught:
        await run_server.client.agents.messages.list(unknown)
    assert body_of(caught) == {"detail": "Agent not found"}


async def test_a_run_is_listed_by_agent_status_and_kind(run_server: Target) -> None:
    agent_id = await run_server.agent()
    await run_server.client.agents.messages.create(agent_id, messages=user("one"))
    await run_server.client.agents.messages.create_async(agent_id, messages=user("two"))
    await run_server.run_with_status(agent_id, "completed")

    async def count(**filters: Any) -> int:
        return len((await run_server.client.runs.list(agent_id=agent_id, **filters)).items)

    assert await count() == 2
    assert await count(statuses=["completed"]) == 2
    assert await count(active=True) == 0
    assert await count(background=True) == 1
    assert await count(limit=1) == 1


async def test_the_cursors_of_the_run_list_are_the_wrong_way_round(run_server: Target) -> None:
    agent_id = await run_server.agent()
    for _ in range(3):
        await run_server.client.agents.messages.create(agent_id, messages=user("x"))
    newest, middle, oldest = [run.id for run in await run_server.runs(agent_id)]

    async def listed(**cursor: str) -> list[str]:
        return [run.id for run in (await run_server.client.runs.list(agent_id=agent_id, **cursor)).items]

    assert await listed(after=middle) == [newest]
    assert await listed(before=middle) == [oldest]
    assert await listed(order="asc", after=middle) == [oldest]
    walked = [run.id async for run in run_server.client.runs.list(agent_id=agent_id, limit=2)]
    assert walked == [newest, middle, newest], "a walk repeats one run and misses another"


async def test_an_active_run_is_found_by_its_agent(run_server: Target) -> None:
    agent_id = await run_server.agent()
    await run_server.client.agents.messages.create_async(agent_id, messages=user("slow [[delay 1]]"))
    active = (await run_server.client.runs.list(agent_id=agent_id, active=True)).items
    assert [run.status for run in active] == ["created"]


async def test_usage_and_steps_of_a_run(run_server: Target) -> None:
    agent_id = await run_server.agent()
    answer = await run_server.client.agents.messages.create(agent_id, messages=user("[[tool missing {}]] [[say x]]"))
    (run,) = await run_server.runs(agent_id)
    usage = await run_server.client.runs.usage.retrieve(run.id)
    assert usage.total_tokens == answer.usage.total_tokens
    assert len([step async for step in run_server.client.runs.steps.list(run.id)]) == 2


async def test_unknown_and_malformed_runs(run_server: Target) -> None:
    with pytest.raises(letta_client.NotFoundError):
        await run_server.client.runs.retrieve(f"run-{uuid4()}")
    with pytest.raises(letta_client.NotFoundError):
        await run_server.client.runs.messages.list(f"run-{uuid4()}")
    with pytest.raises(letta_client.BadRequestError):
        await run_server.client.runs.retrieve("run-x")
    with pytest.raises(letta_client.BadRequestError):
        await run_server.client.runs.list(statuses=["nonsense"])


async def test_a_run_that_is_not_a_background_one_cannot_be_streamed(run_server: Target) -> None:
    agent_id = await run_server.agent()
    await run_server.client.agents.messages.create(agent_id, messages=user("x"))
    (run,) = await run_server.runs(agent_id)
    with pytest.raises(letta_client.BadRequestError) as caught:
        await run_server.client.runs.messages.stream(run.id, starting_after=0)
    assert "not created in background mode" in body_of(caught)["detail"]


async def test_cancel_ends_a_turn_after_its_present_step(run_server: Target) -> None:
    agent_id = await run_server.agent()
    text = "[[delay 1]] [[tool missing {}]] [[say never]]"
    turn = asyncio.create_task(run_server.client.agents.messages.create(agent_id, messages=user(text)))
    run = await run_server.run_with_status(agent_id, "created")
    assert await run_server.client.agents.messages.cancel(agent_id, run_ids=[run.id]) == {run.id: "cancelled"}
    answer = await turn
    assert (texts(answer), answer.stop_reason.stop_reason) == ([], "cancelled")
    assert (await run_server.client.runs.retrieve(run.id)).status == "cancelled"
    landed = [message.message_type for message in await run_server.messages(agent_id)]
    assert landed == ["user_message", "tool_call_message", "tool_return_message"], "the step landed all the same"


async def test_a_cancelled_last_step_still_ends_as_completed(run_server: Target) -> None:
    agent_id = await run_server.agent()
    run = await run_server.client.agents.messages.create_async(agent_id, messages=user("[[delay 1]] [[say done]]"))
    assert await run_server.client.agents.messages.cancel(agent_id, run_ids=[run.id]) == {run.id: "cancelled"}
    assert (await run_server.client.runs.retrieve(run.id)).status == "cancelled"
    ended = await run_server.run_with_status(agent_id, "completed")
    assert ended.stop_reason == "end_turn"
    assert texts(await run_server.messages(agent_id)) == ["done"]


async def test_a_cancelled_stream_ends_as_cancelled_but_its_step_lands(redis_server: Target) -> None:
    agent_id = await redis_server.agent()
    stream = await redis_server.background(agent_id, "[[delay 1.2]] [[say unheard]]", fresh("otid"))
    events = aiter(stream)
    run_id = (await anext(events)).run_id
    await redis_server.client.agents.messages.cancel(agent_id, run_ids=[run_id])
    with pytest.raises(letta_client.ConflictError):
        await redis_server.background(agent_id, "next", fresh("otid"))
    rest = [event async for event in events]
    assert [event.stop_reason for event in rest] == ["cancelled"]
    assert (await redis_server.client.runs.retrieve(run_id)).status == "cancelled"
    assert texts(await redis_server.messages(agent_id)) == ["unheard"]


async def test_cancel_without_any_run_is_a_conflict(run_server: Target) -> None:
    agent_id = await run_server.agent()
    with pytest.raises(letta_client.ConflictError) as caught:
        await run_server.client.agents.messages.cancel(agent_id)
    assert body_of(caught)["detail"] == f"CONFLICT: No active runs to cancel for agent {agent_id}"


async def test_cancel_of_an_ended_run_says_cancelled_and_changes_nothing(run_server: Target) -> None:
    agent_id = await run_server.agent()
    await run_server.client.agents.messages.create(agent_id, messages=user("x"))
    (run,) = await run_server.runs(agent_id)
    assert await run_server.client.agents.messages.cancel(agent_id, run_ids=[run.id]) == {run.id: "cancelled"}
    assert (await run_server.client.runs.retrieve(run.id)).status == "completed"
