"""Fixtures for every test. Redis comes in three kinds: fakeredis, and every real server found."""

import logging
from collections.abc import AsyncIterator, Iterator

import fakeredis
import pytest
import structlog

pytest.register_assert_rewrite("tests.redis.broker.machine", "tests.support.key_check")

from tests.support.ledger import Ledger  # noqa: E402  # after the asserts of what tests share were made to speak
from tests.support.redis_server import RedisServer, binaries  # noqa: E402
from tests.support.time import ScriptTime  # noqa: E402
from workers.broker.client import Client, close, connect  # noqa: E402

REAL = binaries()

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


def pytest_report_header() -> str:
    if not REAL:
        return "NO REAL REDIS FOUND: tests of Redis semantics run on fakeredis only"
    return "real Redis servers: " + ", ".join(f"{name} ({path})" for name, path in REAL.items())


@pytest.fixture(scope="session")
def redis_servers() -> Iterator[dict[str, RedisServer]]:
    servers = {name: RedisServer(path, append_only=False).start() for name, path in REAL.items()}
    yield servers
    for server in servers.values():
        server.stop()


@pytest.fixture(params=["fakeredis", *REAL])
async def client(request: pytest.FixtureRequest, redis_servers: dict[str, RedisServer]) -> AsyncIterator[Client]:
    """An empty Redis of each kind."""
    if request.param == "fakeredis":
        fake = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
        yield fake
        await fake.aclose()
        return
    real = connect(redis_servers[request.param].url)
    await real.flushall()
    yield real
    await close(real)


@pytest.fixture
async def ledger(client: Client) -> Ledger:
    """Tenant `acme`, registered, on scripts whose clock stands still."""
    time = ScriptTime(client)
    await time.start()
    ledger = Ledger(client, time)
    await ledger.register()
    return ledger
