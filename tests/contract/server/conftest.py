"""Every contract test runs against the sandbox in the modes it is about, and against a real server.

Set LETTA_BASE_URL to a real Letta 0.16.8 whose model is shared/real-letta/stub_llm.py to include it.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from letta_client import AsyncLetta

from console.sandbox.server import SandboxServer
from console.sandbox.world import Mode
from tests.contract.server.target import SDK_HEADERS, Target, fresh, user

REAL_URL = os.environ.get("LETTA_BASE_URL", "")
REAL = ["real"] if REAL_URL else []
TIMEOUT_SECONDS = 60.0
HERE = Path(__file__).parent


Serve = Callable[[str], AbstractAsyncContextManager[Target]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this directory share one event loop, and with it the servers."""
    for item in items:
        if item.path.parent == HERE and isinstance(item, pytest.Function):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def sandboxes() -> AsyncIterator[dict[str, SandboxServer]]:
    """One sandbox in each mode, for the whole session: tests make their own agents."""
    async with AsyncExitStack() as stack:
        yield {f"sandbox-{mode}": await stack.enter_async_context(SandboxServer(mode)) for mode in Mode}


@pytest.fixture
def serve(sandboxes: dict[str, SandboxServer]) -> Serve:
    """Open a target by name; agents made through it are deleted at the end."""

    @asynccontextmanager
    async def open_target(name: str) -> AsyncIterator[Target]:
        url = REAL_URL if name == "real" else sandboxes[name].base_url
        async with (
            AsyncLetta(base_url=url, api_key="none", max_retries=0, timeout=TIMEOUT_SECONDS) as client,
            httpx.AsyncClient(base_url=url, headers=SDK_HEADERS, timeout=TIMEOUT_SECONDS) as http,
        ):
            target = Target(name, url, client, http, name == "real", name == "sandbox-joins", name != "sandbox-plain")
            if target.real:
                target.has_redis = await speaks_redis(target)
            yield target
            async for agent in client.agents.list(tags=[target.tag], limit=500):
                await client.agents.delete(agent.id)

    return open_target


async def speaks_redis(target: Target) -> bool:
    """Ask instead of assuming: a server without Redis refuses a background stream with 503."""
    agent_id = await target.agent()
    answer = await target.http.post(
        "/v1/conversations/default/messages",
        json={"agent_id": agent_id, "background": True, "messages": user("[[say probe]]", fresh("probe"))},
    )
    return answer.status_code == 200


@pytest_asyncio.fixture(loop_scope="session", params=["sandbox-joins", "sandbox-runs", "sandbox-plain", *REAL])
async def server(request: pytest.FixtureRequest, serve: Serve) -> AsyncIterator[Target]:
    """Any server: what holds here holds everywhere."""
    async with serve(request.param) as target:
        yield target


@pytest_asyncio.fixture(loop_scope="session", params=["sandbox-joins", "sandbox-runs", *REAL])
async def run_server(request: pytest.FixtureRequest, serve: Serve) -> AsyncIterator[Target]:
    """A server that shows its runs."""
    async with serve(request.param) as target:
        yield target


@pytest_asyncio.fixture(loop_scope="session", params=["sandbox-joins", *REAL])
async def redis_server(request: pytest.FixtureRequest, serve: Serve) -> AsyncIterator[Target]:
    """A server with Redis: locks, background streams, otids."""
    async with serve(request.param) as target:
        if not target.has_redis:
            pytest.skip(f"{target.base_url} has no Redis: it refuses background streams with 503")
        yield target


@pytest_asyncio.fixture(loop_scope="session", params=["sandbox-runs", "sandbox-plain", *REAL])
async def lockless_server(request: pytest.FixtureRequest, serve: Serve) -> AsyncIterator[Target]:
    """A server without Redis."""
    async with serve(request.param) as target:
        if target.has_redis:
            pytest.skip(f"{target.base_url} has Redis")
        yield target


@pytest_asyncio.fixture(loop_scope="session")
async def sandbox(serve: Serve) -> AsyncIterator[Target]:
    """The sandbox with everything on, for what only a sandbox can do; server-wide faults end with the test."""
    async with serve("sandbox-joins") as target:
        yield target
        await target.sandbox("behaviour", {})
