"""The model behind the agent fails: the same statuses as Letta's own refusals, told apart by the body."""

from typing import Any

import letta_client
import pytest

from tests.contract.server.target import Target, body_of, drain, fresh, gather_events, texts, user

CASES = [
    (429, letta_client.RateLimitError, "llm_rate_limit"),
    (400, letta_client.BadRequestError, "llm_bad_request"),
    (401, letta_client.AuthenticationError, "llm_authentication"),
    (500, letta_client.InternalServerError, "llm_error"),
    (404, letta_client.InternalServerError, "llm_error"),
    (422, letta_client.InternalServerError, "llm_error"),
    (503, letta_client.InternalServerError, "llm_error"),
    (529, letta_client.InternalServerError, "llm_error"),
]


@pytest.mark.parametrize(("status", "error", "kind"), CASES)
async def test_an_error_of_the_model_says_so_in_its_body(
    server: Target, status: int, error: type[letta_client.APIStatusError], kind: str
) -> None:
    agent_id = await server.agent()
    with pytest.raises(error) as caught:
        await server.client.agents.messages.create(agent_id, messages=user(f"{fresh('m')} [[status {status}]]"))
    body = body_of(caught)
    assert body["error"]["type"] == kind
    assert f"Error code: {status}" in body["error"]["detail"]
    assert "detail" not in body
    assert "retry-after" not in caught.value.response.headers
    assert await server.messages(agent_id) == [], "a failed first step leaves nothing behind"


async def test_a_dropped_connection_to_the_model_is_an_error_of_the_model(server: Target) -> None:
    agent_id = await server.agent()
    with pytest.raises(letta_client.InternalServerError) as caught:
        await server.client.agents.messages.create(agent_id, messages=user(f"{fresh('m')} [[drop]]"))
    assert body_of(caught)["error"]["type"] == "llm_error"


async def test_the_server_itself_asks_the_model_three_times(server: Target) -> None:
    agent_id = await server.agent()
    text = f"{fresh('m')} [[status 500 x2]] [[say at last]]"
    assert texts(await server.client.agents.messages.create(agent_id, messages=user(text))) == ["at last"]


async def test_but_not_after_a_bad_request(server: Target) -> None:
    agent_id = await server.agent()
    text = f"{fresh('m')} [[status 400 x1]] [[say at last]]"
    with pytest.raises(letta_client.BadRequestError):
        await server.client.agents.messages.create(agent_id, messages=user(text))
    assert texts(await server.client.agents.messages.create(agent_id, messages=user(text))) == ["at last"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(500, "llm_error"), (429, "llm_rate_limit"), (401, "llm_authentication"), (400, "llm_error")],
)
async def test_inside_a_stream_the_error_has_status_200(server: Target, status: int, kind: str) -> None:
    agent_id = await server.agent()
    stream = await server.client.agents.messages.create(
        agent_id, messages=user(f"{fresh('m')} [[status {status}]]"), streaming=True
    )
    seen: list[Any] = []
    with pytest.raises(letta_client.APIStatusError) as caught:
        await gather_events(stream, seen)
    assert caught.value.status_code == 200
    assert body_of(caught)["error_type"] == kind
    assert body_of(caught)["message_type"] == "error_message"
    assert seen[-1].stop_reason == "llm_api_error"


async def test_a_failed_blocking_run_keeps_the_error_but_no_stop_reason(run_server: Target) -> None:
    agent_id = await run_server.agent()
    with pytest.raises(letta_client.InternalServerError):
        await run_server.client.agents.messages.create(agent_id, messages=user(f"{fresh('m')} [[status 500]]"))
    (run,) = await run_server.runs(agent_id)
    assert (run.status, run.stop_reason) == ("failed", None)
    assert "Error code: 500" in run.metadata["error"]
    assert run.completed_at is not None


async def test_a_failed_streamed_run_keeps_both(run_server: Target) -> None:
    agent_id = await run_server.agent()
    stream = await run_server.client.agents.messages.create(
        agent_id, messages=user(f"{fresh('m')} [[status 500]]"), streaming=True
    )
    with pytest.raises(letta_client.APIStatusError):
        await drain(stream)
    run = await run_server.run_with_status(agent_id, "failed")
    assert run.stop_reason == "llm_api_error"
    assert run.metadata["error"]["error_type"] == "llm_error"
