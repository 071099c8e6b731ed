"""Every contract test runs against the sandbox in the modes it is about, and against a real server.

Set LETTA_BASE_URL to a real Letta 0.16.8 whose model is shared/real-letta/stub_llm.py to include it.
"""

import os
from collections.abc import AsyncIterator

import httpx
import pytest
from letta_client import AsyncLetta

from console.sandbox.server import SandboxServer
from console.sandbox.world import Mode
from tests.contract.server.target import SDK_HEADERS, Target, fresh, user

REAL_URL = os.environ.get("LETTA_BASE_URL", "")
REAL = ["real"] if REAL_URL else []
TIMEOUT_SECONDS = 60.0


async def serve(name: str) -> AsyncIterator[Target]:
    """A started server and its clients; agents it was given are deleted at the end."""
    if name == "real":
        async for target in connect(name, REAL_URL, real=True, has_redis=True, has_runs=True):
            target.has_redis = await speaks_redis(target)
            yield target
        return
    mode = Mode(name.removeprefix("sandbox-"))
    async with SandboxServer(mode) as server:
        has_redis, has_runs = mode is Mode.JOINS, mode is not Mode.PLAIN
        async for target in connect(name, server.base_url, real=False, has_redis=has_redis, has_runs=has_runs):
            yield target


async def connect(name: str, url: str, *, real: bool, has_redis: bool, has_runs: bool) -> AsyncIterator[Target]:
    async with (
        AsyncLetta(base_url=url, api_key="none", max_retries=0, timeout=TIMEOUT_SECONDS) as client,
        httpx.AsyncClient(base_url=url, headers=SDK_HEADERS, timeout=TIMEOUT_SECONDS) as http,
    ):
        target = Target(name, url, client, http, real, has_redis, has_runs)
        yield target
        if real:
            async for agent in client.agents.list(tags=[target.tag]):
                await client.agents.delete(agent.id)


async def speaks_redis(target: Target) -> bool:
    """Ask instead of assuming: a server without Redis refuses a background stream with 503."""
    agent_id = await target.agent()
    answer = await target.http.post(
        "/v1/conversations/default/messages",
        json={"agent_id": agent_id, "background": True, "messages": user("[[say probe]]", fresh("probe"))},
    )
    return answer.status_code == 200


@pytest.fixture(params=["sandbox-joins", "sandbox-runs", "sandbox-plain", *REAL])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Target]:
    """Any server: what holds here holds everywhere."""
    async for target in serve(request.param):
        yield target


@pytest.fixture(params=["sandbox-joins", "sandbox-runs", *REAL])
async def run_server(request: pytest.FixtureRequest) -> AsyncIterator[Target]:
    """A server that shows its runs."""
    async for target in serve(request.param):
        yield target


@pytest.fixture(params=["sandbox-joins", *REAL])
async def redis_server(request: pytest.FixtureRequest) -> AsyncIterator[Target]:
    """A server with Redis: locks, background streams, otids."""
    async for target in serve(request.param):
        if not target.has_redis:
            pytest.skip(f"{target.base_url} has no Redis: it refuses background streams with 503")
        yield target


@pytest.fixture(params=["sandbox-runs", "sandbox-plain", *REAL])
async def lockless_server(request: pytest.FixtureRequest) -> AsyncIterator[Target]:
    """A server without Redis."""
    async for target in serve(request.param):
        if target.has_redis:
            pytest.skip(f"{target.base_url} has Redis")
        yield target


@pytest.fixture
async def sandbox() -> AsyncIterator[Target]:
    """The sandbox with everything on, for what only a sandbox can do."""
    async for target in serve("sandbox-joins"):
        yield target
