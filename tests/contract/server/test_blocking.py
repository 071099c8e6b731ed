"""The blocking call: what its answer looks like, what it stores and when, what it does not prevent."""

import asyncio
from typing import Any

import letta_client
import pytest

from tests.contract.server.target import Target, body_of, fresh, texts, until, user


async def test_the_answer_has_text_stop_reason_and_usage(server: Target) -> None:
    agent_id = await server.agent()
    answer = await server.client.agents.messages.create(agent_id, messages=user("[[say good morning]]"))
    assert texts(answer) == ["good morning"]
    assert answer.stop_reason.stop_reason == "end_turn"
    assert answer.usage.step_count == 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    assert [bool(message.run_id) for message in answer.messages] == [server.has_runs]


async def test_without_directives_the_scripted_model_echoes(server: Target) -> None:
    agent_id = await server.agent()
    answer = await server.client.agents.messages.create(agent_id, messages=user("hello"))
    assert texts(answer) == ["echo:hello#aaf4c61d"]


async def test_input_is_short_for_one_user_message(server: Target) -> None:
    agent_id = await server.agent()
    answer = await server.client.agents.messages.create(agent_id, input="[[say short]]")
    assert texts(answer) == ["short"]


async def test_the_otid_is_stored_but_not_deduplicated(server: Target) -> None:
    agent_id, otid = await server.agent(), fresh("otid")
    for _ in range(2):
        await server.client.agents.messages.create(agent_id, messages=user("again", otid))
    stored = await server.messages(agent_id, "user_message")
    assert [message.otid for message in stored] == [otid, otid]


async def test_sender_and_name_are_stored_on_the_user_message(server: Target) -> None:
    agent_id = await server.agent()
    message = {"role": "user", "content": "hi", "sender_id": "agent-far", "name": "bob"}
    await server.client.agents.messages.create(agent_id, messages=[message])
    (stored,) = await server.messages(agent_id, "user_message")
    assert (stored.sender_id, stored.name, stored.content) == ("agent-far", "bob", "hi")


async def test_several_messages_are_one_turn(server: Target) -> None:
    agent_id = await server.agent()
    answer = await server.client.agents.messages.create(agent_id, messages=user("one") + user("two [[say both]]"))
    assert texts(answer) == ["both"]
    stored = await server.messages(agent_id, "user_message")
    assert [message.content for message in stored] == ["one", "two [[say both]]"]
    assert len({message.run_id for message in stored}) == 1


async def test_a_filter_hides_messages_from_the_answer_only(server: Target) -> None:
    agent_id = await server.agent()
    answer = await server.client.agents.messages.create(
        agent_id, messages=user("hi"), include_return_message_types=["tool_call_message"]
    )
    assert answer.messages == []
    assert len(await server.messages(agent_id, "assistant_message")) == 1


async def test_no_steps_means_silently_nothing(server: Target) -> None:
    agent_id = await server.agent()
    answer = await server.client.agents.messages.create(agent_id, messages=user("lost"), max_steps=0)
    assert (answer.messages, answer.stop_reason.stop_reason) == ([], "end_turn")
    assert await server.messages(agent_id) == []


async def test_one_step_with_a_tool_call_ends_without_text(server: Target) -> None:
    agent_id = await server.agent()
    answer = await server.client.agents.messages.create(
        agent_id, messages=user("[[tool missing {}]] [[say never]]"), max_steps=1
    )
    assert texts(answer) == []
    assert answer.stop_reason.stop_reason == "max_steps"


async def test_an_unknown_tool_is_an_error_inside_the_run_not_of_the_call(server: Target) -> None:
    agent_id = await server.agent()
    answer = await server.client.agents.messages.create(agent_id, messages=user("[[tool missing {}]] [[say on]]"))
    kinds = [message.message_type for message in answer.messages]
    assert kinds == ["tool_call_message", "tool_return_message", "assistant_message"]
    assert answer.messages[1].status == "error"
    assert answer.messages[1].tool_return == "[ToolConstraintError] Cannot call missing, valid tools include: []."
    assert answer.usage.step_count == 2


async def test_a_known_tool_runs_and_the_turn_goes_on(server: Target) -> None:
    agent_id = await server.agent(tools=["conversation_search"])
    text = '[[tool conversation_search {"query": "x"}]] [[say found]]'
    answer = await server.client.agents.messages.create(agent_id, messages=user(text))
    assert answer.messages[1].status == "success"
    assert texts(answer) == ["found"]


async def test_an_exit_rule_ends_the_turn_without_text(server: Target) -> None:
    agent_id = await server.agent(
        tools=["conversation_search"], tool_rules=[{"type": "exit_loop", "tool_name": "conversation_search"}]
    )
    text = '[[tool conversation_search {"query": "x"}]] [[say never]]'
    answer = await server.client.agents.messages.create(agent_id, messages=user(text))
    assert (texts(answer), answer.stop_reason.stop_reason) == ([], "tool_rule")


@pytest.mark.parametrize(
    ("messages", "error", "detail"),
    [
        (user(""), letta_client.BadRequestError, "Message content is empty or invalid"),
        ([], letta_client.UnprocessableEntityError, "Messages must not be empty"),
    ],
)
async def test_nothing_to_say_is_refused(
    server: Target, messages: list[Any], error: type[letta_client.APIStatusError], detail: str
) -> None:
    agent_id = await server.agent()
    with pytest.raises(error) as caught:
        await server.client.agents.messages.create(agent_id, messages=messages)
    assert body_of(caught) == {"detail": detail}


async def test_an_unknown_role_is_refused(server: Target) -> None:
    agent_id = await server.agent()
    with pytest.raises(letta_client.UnprocessableEntityError):
        await server.client.agents.messages.create(agent_id, messages=[{"role": "tool", "content": "x"}])


async def test_streaming_options_need_streaming(server: Target) -> None:
    agent_id = await server.agent()
    answer = await server.http.post(f"/v1/agents/{agent_id}/messages", json={"messages": user("x"), "background": True})
    assert answer.status_code == 422
    assert "background can only be true when streaming=true" in answer.json()["detail"]


async def test_the_user_message_is_invisible_until_the_first_step_is_done(server: Target) -> None:
    agent_id = await server.agent()
    turn = asyncio.create_task(
        server.client.agents.messages.create(agent_id, messages=user("hidden [[delay 1.5]]", fresh("otid")))
    )
    if server.has_runs:
        run = await server.run_with_status(agent_id, "created")
        assert (await server.client.runs.messages.list(run.id)).items == []
    assert await server.messages(agent_id) == []
    assert not turn.done(), "the turn was over before anybody looked"
    await turn
    kinds = [message.message_type for message in await server.messages(agent_id)]
    assert kinds == ["user_message", "assistant_message"]


async def test_a_client_that_gives_up_does_not_stop_the_turn(server: Target) -> None:
    agent_id, otid = await server.agent(), fresh("otid")
    with pytest.raises(letta_client.APITimeoutError):
        await server.hurried(0.5).agents.messages.create(agent_id, messages=user("slow [[delay 1.2]]", otid))

    async def landed() -> bool:
        return len(await server.messages(agent_id)) == 2

    await until(landed)
    assert [message.otid for message in await server.messages(agent_id, "user_message")] == [otid]


async def test_two_calls_run_in_parallel_and_one_is_lost_from_the_context(server: Target) -> None:
    agent_id = await server.agent()
    before = (await server.client.agents.retrieve(agent_id)).message_ids
    await asyncio.gather(
        *(
            server.client.agents.messages.create(agent_id, messages=user(f"{each} [[delay 1]]"))
            for each in ("one", "two")
        )
    )
    assert len(await server.messages(agent_id)) == 4
    after = (await server.client.agents.retrieve(agent_id)).message_ids
    assert len(after) == len(before) + 2


async def test_the_default_list_is_the_newest_but_ascending_and_does_not_page_on(server: Target) -> None:
    agent_id = await server.agent()
    for number in range(3):
        await server.client.agents.messages.create(agent_id, messages=user(f"n{number} [[say r{number}]]"))
    newest = (await server.client.agents.messages.list(agent_id, limit=3)).items
    assert [message.content for message in newest] == ["r1", "n2 [[say r2]]", "r2"]
    walked = [message async for message in server.client.agents.messages.list(agent_id, limit=3)]
    assert len(walked) == 3, "the trap: a walk in the default order stops after one page"
    complete = [message async for message in server.client.agents.messages.list(agent_id, limit=3, order="asc")]
    assert len(complete) == 7


async def test_the_list_filters_by_type_and_starts_after_a_message(server: Target) -> None:
    agent_id = await server.agent()
    for number in range(3):
        await server.client.agents.messages.create(agent_id, messages=user(f"n{number}"))
    listing = server.client.agents.messages.list
    users = (await listing(agent_id, order="asc", include_return_message_types=["user_message"])).items
    assert [message.content for message in users] == ["n0", "n1", "n2"]
    rest = (await listing(agent_id, order="asc", after=users[0].id)).items
    assert [message.content for message in rest if message.message_type == "user_message"] == ["n1", "n2"]
    with pytest.raises(letta_client.NotFoundError):
        await listing(agent_id, order="asc", after="message-unknown")
