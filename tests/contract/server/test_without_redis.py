"""A server without Redis: no lock, no background stream, no otid. And one with the blocking call only."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import letta_client
import pytest
import pytest_asyncio

from tests.contract.server.conftest import Serve
from tests.contract.server.target import Target, body_of, drain, fresh, texts, user


@pytest_asyncio.fixture(loop_scope="session")
async def plain_server(serve: Serve) -> AsyncIterator[Target]:
    async with serve("sandbox-plain") as target:
        yield target


async def test_a_background_stream_is_refused_with_503(lockless_server: Target) -> None:
    agent_id = await lockless_server.agent()
    with pytest.raises(letta_client.InternalServerError) as caught:
        await lockless_server.background(agent_id, "x", fresh("otid"))
    assert caught.value.status_code == 503
    assert "Background streaming requires Redis" in body_of(caught)["detail"]
    assert await lockless_server.messages(agent_id) == []
    if lockless_server.has_runs:
        (run,) = await lockless_server.runs(agent_id)
        assert (run.status, run.stop_reason) == ("failed", None)


async def test_there_is_no_lock(lockless_server: Target) -> None:
    agent_id = await lockless_server.agent()

    async def send(text: str) -> list[str]:
        create = lockless_server.client.conversations.messages.create
        return texts(await drain(await create("default", agent_id=agent_id, messages=user(text), streaming=True)))

    answers = await asyncio.gather(send("[[delay 0.5]] [[say one]]"), send("[[delay 0.5]] [[say two]]"))
    assert list(answers) == [["one"], ["two"]]


async def test_streams_cannot_be_resumed(lockless_server: Target) -> None:
    agent_id = await lockless_server.agent()
    with pytest.raises(letta_client.InternalServerError) as caught:
        await lockless_server.client.conversations.messages.stream("default", agent_id=agent_id, otid="x")
    assert caught.value.status_code == 503


async def test_a_plain_server_knows_no_runs(plain_server: Target) -> None:
    agent_id = await plain_server.agent()
    answer = await plain_server.client.agents.messages.create(agent_id, messages=user("x"))
    assert [message.run_id for message in answer.messages] == [None]
    for call in (
        plain_server.client.runs.list(agent_id=agent_id),
        plain_server.client.runs.retrieve(f"run-{uuid4()}"),
        plain_server.client.runs.messages.list(f"run-{uuid4()}"),
        plain_server.client.agents.messages.create_async(agent_id, messages=user("x")),
    ):
        with pytest.raises(letta_client.NotFoundError):
            await call
