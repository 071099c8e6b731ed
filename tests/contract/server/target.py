"""What a contract test talks to: a server, what it can do, and a few ways to ask it that tests share.

The SDK's answers are `Any` here on purpose: its unions name every kind of message, and what these tests
assert is what arrives, not what its types promise.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import pytest
from letta_client import APIStatusError

MODEL = "openai-proxy/stub-chat"
SDK_HEADERS = {"User-Agent": "AsyncLetta/Python 1.12.1", "X-Stainless-Package-Version": "1.12.1"}


def fresh(kind: str) -> str:
    """A name nobody else uses."""
    return f"{kind}-{uuid4().hex[:12]}"


def user(text: str, otid: str | None = None) -> list[Any]:
    """One user message."""
    message = {"role": "user", "content": text}
    return [message if otid is None else {**message, "otid": otid}]


async def until(ask: Callable[[], Awaitable[Any]], *, within: float = 10.0) -> Any:
    """Ask until the answer is true; the last answer, or a failure that says what was seen."""
    deadline = time.monotonic() + within
    while True:
        answer = await ask()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not so within {within} s; last answer: {answer!r}"
        await asyncio.sleep(0.02)


@dataclass
class Target:
    """A server under test. Agents made through it carry its tag and are deleted with it."""

    name: str
    base_url: str
    client: Any
    http: httpx.AsyncClient
    real: bool
    has_redis: bool
    has_runs: bool
    tag: str = field(default_factory=lambda: fresh("contract"))

    async def agent(self, **options: Any) -> str:
        """A new agent without tools, unless asked otherwise."""
        tags = [self.tag, *options.pop("tags", [])]
        options = {"name": fresh("agent"), "model": MODEL, "include_base_tools": False, **options}
        created = await self.client.agents.create(tags=tags, **options)
        return str(created.id)

    def hurried(self, seconds: float) -> Any:
        """A client that gives up early, as a delivery worker does."""
        return self.client.with_options(timeout=seconds, max_retries=0)

    async def background(self, agent_id: str, text: str, otid: str) -> Any:
        """The preferred call: locked, with a run id in its first event, joined again under the same otid."""
        return await self.client.conversations.messages.create(
            "default", agent_id=agent_id, streaming=True, background=True, messages=user(text, otid)
        )

    async def messages(self, agent_id: str, kind: str | None = None) -> list[Any]:
        """Everything the agent's list holds, oldest first, without the system message."""
        page = await self.client.agents.messages.list(agent_id, order="asc", limit=500)
        return [
            each for each in page.items if each.message_type != "system_message" and kind in {None, each.message_type}
        ]

    async def runs(self, agent_id: str) -> Any:
        """The agent's runs, newest first."""
        return (await self.client.runs.list(agent_id=agent_id)).items

    async def run_with_status(self, agent_id: str, *statuses: str) -> Any:
        """The agent's newest run, once it has one of these statuses."""

        async def look() -> Any:
            newest = next(iter(await self.runs(agent_id)), None)
            return newest if newest is not None and newest.status in statuses else None

        return await until(look)

    async def sandbox(self, path: str, body: dict[str, object]) -> None:
        """Switch a fault on (sandbox only)."""
        (await self.http.post(f"/_sandbox/{path}", json=body)).raise_for_status()


def texts(response: Any) -> list[str]:
    """The assistant's texts in a blocking answer, or in a list of messages or events."""
    items = getattr(response, "messages", response)
    return [each.content for each in items if each.message_type == "assistant_message"]


async def drain(stream: AsyncIterator[Any]) -> list[Any]:
    """All events of a stream."""
    return [event async for event in stream]


async def gather_events(stream: AsyncIterator[Any], into: list[Any]) -> None:
    """Like drain, but what came before an error is kept."""
    async for event in stream:
        into.append(event)  # noqa: PERF401 - the list must hold what came before the stream fails


def body_of(caught: pytest.ExceptionInfo[APIStatusError]) -> Any:
    """The parsed body of an error answer."""
    return caught.value.body
