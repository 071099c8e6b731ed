"""The Redis settings in deploy/ are the ones that the services want."""

from pathlib import Path

from tests.conftest import REAL
from tests.support.redis_server import RedisServer
from workers.broker.client import close, connect, require_durable

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "redis.conf"


async def test_a_redis_with_our_settings_is_let_in() -> None:
    given = [line.split() for line in CONFIGURATION.read_text().splitlines() if line and not line.startswith("#")]
    options = tuple(part for name, value in given for part in (f"--{name}", value))
    server = RedisServer(next(iter(REAL.values())), append_only=False, extra=options).start()
    client = connect(server.url)
    try:
        found = await require_durable(client, accept_loss=False)
    finally:
        await close(client)
        server.stop()

    assert (found.append_only, found.fsync, found.eviction) == (True, "everysec", "noeviction")
