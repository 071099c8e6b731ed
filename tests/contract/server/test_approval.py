"""An agent that waits for approval is blocked; how it says so depends on the way it was called."""

from typing import Any

import letta_client
import pytest

from tests.contract.server.target import Target, body_of, drain, fresh, texts, user

TOOL = "conversation_search"
ASKS = f'[[tool {TOOL} {{"query": "x"}}]] [[say approved answer]]'


async def waiting_agent(server: Target) -> tuple[str, str]:
    """An agent that stopped at a tool call, and the id of that call."""
    agent_id = await server.agent(tools=[TOOL], tool_rules=[{"type": "requires_approval", "tool_name": TOOL}])
    answer = await server.client.agents.messages.create(agent_id, messages=user(ASKS))
    assert answer.stop_reason.stop_reason == "requires_approval"
    assert texts(answer) == []
    request = answer.messages[-1]
    assert request.message_type == "approval_request_message"
    assert request.tool_call.name == TOOL
    return agent_id, request.tool_call.tool_call_id


def decision(call_id: str, *, approve: bool) -> list[Any]:
    approval = {
        "type": "approval",
        "tool_call_id": call_id,
        "approve": approve,
        "reason": None if approve else "no",
    }
    return [{"type": "approval", "approvals": [approval]}]


async def test_a_blocking_call_is_refused_with_a_code(server: Target) -> None:
    agent_id, _ = await waiting_agent(server)
    with pytest.raises(letta_client.ConflictError) as caught:
        await server.client.agents.messages.create(agent_id, messages=user("next"))
    detail = body_of(caught)["detail"]
    assert detail["code"] == "PENDING_APPROVAL"
    assert detail["pending_request_id"].startswith("message-")


async def test_a_stream_is_accepted_and_fails_inside(server: Target) -> None:
    agent_id, _ = await waiting_agent(server)
    stream = await server.client.agents.messages.create(agent_id, messages=user("next"), streaming=True)
    with pytest.raises(letta_client.APIStatusError) as caught:
        await drain(stream)
    assert (caught.value.status_code, body_of(caught)["error_type"]) == (200, "internal_error")
    assert body_of(caught)["message"].startswith("CONFLICT: Cannot send a new message: The agent is waiting")


async def test_the_preferred_call_fails_inside_its_stream_too(redis_server: Target) -> None:
    agent_id, _ = await waiting_agent(redis_server)
    with pytest.raises(letta_client.APIStatusError) as caught:
        await drain(await redis_server.background(agent_id, "next", fresh("otid")))
    assert (caught.value.status_code, body_of(caught)["error_type"]) == (200, "internal_error")
    assert "waiting for approval" in body_of(caught)["message"]
    run = await redis_server.client.runs.retrieve(body_of(caught)["run_id"])
    assert run.status in {"running", "failed"}


async def test_an_asynchronous_run_is_accepted_and_fails(run_server: Target) -> None:
    agent_id, _ = await waiting_agent(run_server)
    await run_server.client.agents.messages.create_async(agent_id, messages=user("next"))
    run = await run_server.run_with_status(agent_id, "failed")
    assert run.stop_reason == "error"
    assert "waiting for approval" in run.metadata["error"]


async def test_the_pending_call_is_shown_only_when_asked_for(server: Target) -> None:
    agent_id, call_id = await waiting_agent(server)
    assert (await server.client.agents.retrieve(agent_id)).pending_approval is None
    asked = await server.client.agents.retrieve(agent_id, include=["agent.pending_approval"])
    assert asked.pending_approval.tool_call.tool_call_id == call_id


async def test_approving_runs_the_tool_and_ends_the_turn(server: Target) -> None:
    agent_id, call_id = await waiting_agent(server)
    answer = await server.client.agents.messages.create(agent_id, messages=decision(call_id, approve=True))
    assert [message.message_type for message in answer.messages] == [
        "tool_return_message",
        "assistant_message",
    ]
    assert answer.messages[0].status == "success"
    assert texts(answer) == ["approved answer"]
    after = await server.client.agents.messages.create(agent_id, messages=user("[[say free again]]"))
    assert texts(after) == ["free again"]


async def test_denying_tells_the_agent_why(server: Target) -> None:
    agent_id, call_id = await waiting_agent(server)
    answer = await server.client.agents.messages.create(agent_id, messages=decision(call_id, approve=False))
    assert answer.messages[0].tool_return == "Error: request to call tool denied. User reason: no"
    assert texts(answer) == ["approved answer"], "the model goes on after a denial"


async def test_a_wrong_call_id_is_refused(server: Target) -> None:
    agent_id, call_id = await waiting_agent(server)
    with pytest.raises(letta_client.BadRequestError) as caught:
        await server.client.agents.messages.create(agent_id, messages=decision("call_wrong", approve=True))
    expected = f"Invalid tool call IDs. Expected '['{call_id}']', but received '['call_wrong']'."
    assert body_of(caught) == {"detail": expected}


async def test_an_approval_sent_twice_costs_a_turn_but_not_the_tool(server: Target) -> None:
    agent_id, call_id = await waiting_agent(server)
    approve = decision(call_id, approve=True)
    await server.client.agents.messages.create(agent_id, messages=approve)
    again = await server.client.agents.messages.create(agent_id, messages=approve)
    assert [message.message_type for message in again.messages] == ["assistant_message"]
    alert = (await server.messages(agent_id, "user_message"))[-1]
    assert alert.content.startswith("<system-alert>")


async def test_cancel_denies_the_call_and_unblocks_the_agent(run_server: Target) -> None:
    agent_id, _ = await waiting_agent(run_server)
    (run,) = await run_server.runs(agent_id)
    assert run.stop_reason == "requires_approval"
    await run_server.client.agents.messages.cancel(agent_id, run_ids=[run.id])
    answer = await run_server.client.agents.messages.create(agent_id, messages=user("[[say unblocked]]"))
    assert texts(answer) == ["unblocked"]


async def test_a_client_tool_stops_the_turn_and_goes_on_with_its_return(server: Target) -> None:
    agent_id = await server.agent()
    tool = {"name": "ask_operator", "description": "Ask.", "parameters": {"type": "object", "properties": {}}}
    stopped = await server.client.agents.messages.create(
        agent_id, messages=user("[[tool ask_operator {}]] [[say thanks]]"), client_tools=[tool]
    )
    assert stopped.stop_reason.stop_reason == "requires_approval"
    call_id = stopped.messages[-1].tool_call.tool_call_id
    returned = {"type": "tool", "tool_call_id": call_id, "tool_return": "42", "status": "success"}
    answer = await server.client.agents.messages.create(
        agent_id, messages=[{"type": "approval", "approvals": [returned]}], client_tools=[tool]
    )
    assert texts(answer) == ["thanks"]
