"""A host whose clock is off neither hides work from the others nor jumps the queue (HAZARDS.md A21, FAULTS.md F20)."""

import time

import pytest

from schemas.context import service_context
from tests.support.redis_server import RedisServer
from workers.broker import keys
from workers.broker.arq import connect_arq, job_id
from workers.broker.client import close
from workers.broker.rules import Pool
from workers.broker.scripts import Scripts
from workers.log import Log
from workers.mailbox.ring import Bells
from workers.settings import load

SKEW_MS = 5 * 60 * 1000


@pytest.mark.parametrize("off_by_ms", [-SKEW_MS, 0, SKEW_MS])
async def test_a_drain_is_due_by_every_hosts_clock_and_queued_by_redis_own(
    redis_servers: dict[str, RedisServer], monkeypatch: pytest.MonkeyPatch, off_by_ms: int
) -> None:
    arq = connect_arq(next(iter(redis_servers.values())).url)
    await arq.flushall()
    bells = Bells(arq, Scripts(arq), Log(load()))
    context = service_context("acme", "test")

    await bells.ring(context, [Pool.STANDARD], "first")
    monkeypatch.setattr("arq.connections.timestamp_ms", lambda: int(time.time() * 1000) + off_by_ms)
    await bells.ring(context, [Pool.STANDARD], "second")
    monkeypatch.undo()
    await bells.ring(context, [Pool.STANDARD], "third")

    queued = await arq.zrange(keys.queue(Pool.STANDARD), 0, -1, withscores=True)
    assert [member.decode() for member, _ in queued] == [
        job_id(Pool.STANDARD, seed) for seed in ("first", "second", "third")
    ]
    assert all(score < time.time() * 1000 - SKEW_MS for _, score in queued)
    await close(arq)
