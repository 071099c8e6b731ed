"""Streams, and the one idempotent path: a background stream to "default" under an otid, with Redis."""

import asyncio
from typing import Any

import letta_client
import pytest

from tests.contract.server.target import Target, body_of, drain, fresh, texts, until, user

SHAPE = ["ping", "assistant_message", "stop_reason", "usage_statistics"]


def kinds(events: list[Any]) -> list[str]:
    return [event.message_type for event in events]


async def test_a_stream_begins_with_a_ping_that_carries_the_run(run_server: Target) -> None:
    agent_id = await run_server.agent()
    events = await drain(
        await run_server.client.agents.messages.create(agent_id, messages=user("[[say hi]]"), streaming=True)
    )
    assert kinds(events) == SHAPE
    assert texts(events) == ["hi"]
    assert events[2].stop_reason == "end_turn"
    run = await run_server.run_with_status(agent_id, "completed")
    assert (events[0].run_id, events[1].run_id) == (run.id, run.id)


async def test_the_framing_byte_for_byte(redis_server: Target) -> None:
    agent_id = await redis_server.agent()
    body = {"agent_id": agent_id, "background": True, "messages": user("[[say hi]]", fresh("otid"))}
    answer = await redis_server.http.post("/v1/conversations/default/messages", json=body)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    frames = answer.text.split("\n\n")
    assert frames.pop() == ""
    assert frames[-1] == "data: [DONE]"
    assert frames[-3] == 'data: {"message_type":"stop_reason","stop_reason":"end_turn"}'
    assert frames[0].startswith('data: {"id":"ping-')
    assert '"message_type":"ping"' in frames[0]
    assert '"seq_id":1,"run_id":"run-' in frames[0]
    assert '"seq_id":2,' in frames[1]
    assert frames[1].endswith('"content":"hi"}')


async def test_the_run_id_comes_before_the_model_answers(redis_server: Target) -> None:
    agent_id = await redis_server.agent()
    stream = await redis_server.background(agent_id, "slow [[delay 1.5]]", fresh("otid"))
    first = await anext(aiter(stream))
    assert first.message_type == "ping"
    run = await redis_server.client.runs.retrieve(first.run_id)
    assert run.status in {"created", "running"}
    assert run.background is True
    await stream.close()


async def test_the_same_otid_joins_the_running_turn(redis_server: Target) -> None:
    agent_id, otid = await redis_server.agent(), fresh("otid")
    streams = [await redis_server.background(agent_id, "once [[delay 1]]", otid) for _ in range(2)]
    first, second = await asyncio.gather(*(drain(stream) for stream in streams))
    assert first[0].run_id == second[0].run_id
    assert texts(first) == texts(second) != []
    assert len(await redis_server.messages(agent_id, "user_message")) == 1
    assert len(await redis_server.runs(agent_id)) == 1


async def test_the_same_otid_later_replays_the_finished_turn(redis_server: Target) -> None:
    agent_id, otid = await redis_server.agent(), fresh("otid")
    first = await drain(await redis_server.background(agent_id, "once", otid))
    again = await drain(await redis_server.background(agent_id, "once", otid))
    assert again == first
    assert len(await redis_server.messages(agent_id, "user_message")) == 1


async def test_another_text_under_the_same_otid_is_ignored(redis_server: Target) -> None:
    agent_id, otid = await redis_server.agent(), fresh("otid")
    await drain(await redis_server.background(agent_id, "[[say first]]", otid))
    again = await drain(await redis_server.background(agent_id, "[[say second]]", otid))
    assert texts(again) == ["first"]


async def test_the_same_otid_at_another_agent_replays_the_first_agents_answer(redis_server: Target) -> None:
    one, two, otid = await redis_server.agent(), await redis_server.agent(), fresh("otid")
    await drain(await redis_server.background(one, "[[say from one]]", otid))
    events = await drain(await redis_server.background(two, "[[say from two]]", otid))
    assert texts(events) == ["from one"]
    assert await redis_server.messages(two) == [], "nothing was delivered: the otid must name the recipient"


async def test_another_otid_meets_the_lock_and_learns_the_run(redis_server: Target) -> None:
    agent_id = await redis_server.agent()
    stream = await redis_server.background(agent_id, "slow [[delay 1]]", fresh("otid"))
    run_id = (await anext(aiter(stream))).run_id
    with pytest.raises(letta_client.ConflictError) as caught:
        await redis_server.background(agent_id, "next", fresh("otid"))
    assert body_of(caught)["run_id"] == run_id
    assert body_of(caught)["detail"].startswith("CONFLICT: Cannot send a new message: Another request")
    assert "retry-after" not in caught.value.response.headers
    await stream.close()


async def test_the_lock_is_free_again_when_the_turn_is_over(redis_server: Target) -> None:
    agent_id = await redis_server.agent()
    await drain(await redis_server.background(agent_id, "one", fresh("otid")))

    async def accepted() -> bool:
        try:
            await drain(await redis_server.background(agent_id, "two", fresh("otid")))
        except letta_client.ConflictError:
            return False
        return True

    await until(accepted)
    assert len(await redis_server.messages(agent_id, "user_message")) == 2


async def test_a_client_that_goes_away_can_join_the_live_run_again(redis_server: Target) -> None:
    agent_id, otid = await redis_server.agent(), fresh("otid")
    stream = await redis_server.background(agent_id, "slow [[delay 1]] [[say still here]]", otid)
    run_id = (await anext(aiter(stream))).run_id
    await stream.close()
    events = await drain(await redis_server.background(agent_id, "slow [[delay 1]] [[say still here]]", otid))
    assert events[0].run_id == run_id
    assert texts(events) == ["still here"]
    assert len(await redis_server.messages(agent_id, "user_message")) == 1


async def test_the_blocking_call_ignores_the_lock(redis_server: Target) -> None:
    agent_id = await redis_server.agent()
    stream = await redis_server.background(agent_id, "slow [[delay 1.5]]", fresh("otid"))
    await anext(aiter(stream))
    answer = await redis_server.client.agents.messages.create(agent_id, messages=user("[[say past it]]"))
    assert texts(answer) == ["past it"]
    await stream.close()


async def test_streams_are_resumed_by_otid_and_by_run(redis_server: Target) -> None:
    agent_id, otid = await redis_server.agent(), fresh("otid")
    events = await drain(await redis_server.background(agent_id, "[[say once]]", otid))
    conversations = redis_server.client.conversations.messages
    assert await drain(await conversations.stream("default", agent_id=agent_id, otid=otid)) == events
    run_id = events[0].run_id
    by_run = redis_server.client.runs.messages.stream
    assert await drain(await by_run(run_id, starting_after=0)) == events
    assert await drain(await by_run(run_id, starting_after=1)) == events[1:]
    with pytest.raises(letta_client.NotFoundError):
        await conversations.stream("default", agent_id=agent_id, otid=fresh("unknown"))


async def test_a_failed_run_is_replayed_too(redis_server: Target) -> None:
    agent_id, otid = await redis_server.agent(), fresh("otid")
    text = f"{fresh('m')} [[status 400 x1]] [[say well again]]"
    for _ in range(2):
        with pytest.raises(letta_client.APIStatusError) as caught:
            await drain(await redis_server.background(agent_id, text, otid))
        assert body_of(caught)["error_type"] == "llm_error"
    assert texts(await drain(await redis_server.background(agent_id, text, fresh("otid")))) == ["well again"]


async def test_a_foreground_stream_locks_but_does_not_deduplicate(redis_server: Target) -> None:
    agent_id, otid = await redis_server.agent(), fresh("otid")
    call = redis_server.client.conversations.messages.create

    async def send(text: str) -> list[Any]:
        return await drain(await call("default", agent_id=agent_id, streaming=True, messages=user(text, otid)))

    stream = await call("default", agent_id=agent_id, streaming=True, messages=user("slow [[delay 1]]", otid))
    with pytest.raises(letta_client.ConflictError):
        await send("meanwhile")
    await drain(stream)

    async def sent() -> bool:
        try:
            return bool(await send("[[say second]]"))
        except letta_client.ConflictError:
            return False

    await until(sent)
    assert len(await redis_server.messages(agent_id, "user_message")) == 2


async def test_an_otid_spent_on_a_foreground_stream_leads_a_background_one_nowhere(redis_server: Target) -> None:
    agent_id, otid = await redis_server.agent(), fresh("otid")
    foreground = await redis_server.client.agents.messages.create(agent_id, messages=user("x", otid), streaming=True)
    await drain(foreground)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(redis_server.background(agent_id, "x", otid), 1.0)
    assert len(await redis_server.messages(agent_id, "user_message")) == 1


async def test_an_unfit_message_fails_inside_the_stream(redis_server: Target) -> None:
    agent_id = await redis_server.agent()
    with pytest.raises(letta_client.APIStatusError) as caught:
        await drain(await redis_server.background(agent_id, "", fresh("otid")))
    assert (caught.value.status_code, body_of(caught)["error_type"]) == (200, "internal_error")
    assert body_of(caught)["detail"] == "Message content is empty or invalid"


async def test_unknown_and_malformed_recipients_of_a_stream(redis_server: Target) -> None:
    with pytest.raises(letta_client.NotFoundError):
        await redis_server.background("agent-8a4e6c52-3b06-4e69-b9fd-261af781c55b", "hi", fresh("otid"))
    with pytest.raises(letta_client.BadRequestError) as caught:
        await redis_server.background("agent-x", "hi", fresh("otid"))
    assert "Invalid agent ID format" in body_of(caught)["detail"]


async def test_a_conversation_has_its_own_lock_and_context(redis_server: Target) -> None:
    agent_id = await redis_server.agent()
    conversations = redis_server.client.conversations
    one, two = [await conversations.create(agent_id=agent_id) for _ in range(2)]
    before = (await redis_server.client.agents.retrieve(agent_id)).message_ids
    slow = await conversations.messages.create(one.id, messages=user("slow [[delay 1]] [[say one]]", fresh("o")))
    with pytest.raises(letta_client.ConflictError):
        await conversations.messages.create(one.id, messages=user("next", fresh("o")))
    other = await conversations.messages.create(two.id, messages=user("[[say two]]", fresh("o")))
    assert texts(await drain(other)) == ["two"]
    assert texts(await drain(slow)) == ["one"]
    assert (await redis_server.client.agents.retrieve(agent_id)).message_ids == before
    listed = [message.content for message in (await conversations.messages.list(one.id)).items]
    assert listed[:2] == ["one", "slow [[delay 1]] [[say one]]"], "newest first here, unlike the agent's list"
    first = (await conversations.messages.list(one.id, order="asc")).items[1]
    newer = (await conversations.messages.list(one.id, after=first.id)).items
    assert [message.content for message in newer] == ["one"], "after means later, in the default order too"
    assert len(await redis_server.messages(agent_id)) == 4, "the agent's list holds its conversations too"


async def test_without_streaming_the_conversations_api_leaves_its_run_open_for_ever(
    run_server: Target,
) -> None:
    agent_id = await run_server.agent()
    messages = run_server.client.conversations.messages
    body = {"messages": user("[[say done]]"), "streaming": False, "agent_id": agent_id}
    raw = await run_server.http.post("/v1/conversations/default/messages", json=body)
    assert [message["content"] for message in raw.json()["messages"]] == ["done"]
    assert (await run_server.runs(agent_id))[0].status == "created"
    through_the_sdk = await messages.create("default", agent_id=agent_id, messages=user("x"), streaming=False)
    assert await drain(through_the_sdk) == [], "the SDK reads the JSON answer as an empty stream"
