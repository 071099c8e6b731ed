"""What a message says, and what an agent answers, shows in nothing that the processes write of themselves."""

import gc
import io
import logging
from collections.abc import Iterator

import pytest
import structlog

from schemas.delivery import Cause
from schemas.outcome import Failed, FateUnknown, Rejected, Replied
from tests.redis.pool.conftest import PoolBench, bench_on
from tests.support.builders import settings
from tests.support.redis_server import RedisServer
from tests.support.waiting import until
from workers.log import configure
from workers.turn.letta.contract import Call

CANARY = "canary-9b1e"


@pytest.fixture(params=["json", "console"])
def written(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level, before = root.handlers[:], root.level, structlog.get_config()
    out = io.StringIO()
    configure(settings(log_format=request.param, log_level="debug"), out)
    yield out
    structlog.reset_defaults()
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


async def test_no_content_reaches_the_logs(redis_servers: dict[str, RedisServer], written: io.StringIO) -> None:
    """FAULTS.md attack 19: 0 occurrences, with everything that can go wrong in a turn going wrong."""
    async with bench_on(next(iter(redis_servers.values())).url) as bench:
        await run(bench)
    gc.collect()
    said = written.getvalue()

    assert CANARY not in said
    assert "acme" not in said
    for event in ("settled", "turn failed", "ready"):
        assert event in said


async def run(bench: PoolBench) -> None:
    def err(call: Call) -> None:
        if call.content.endswith("6"):
            raise RuntimeError(CANARY)

    bench.letta.on_turn = err
    bench.letta.outcomes.extend(
        [
            Replied(CANARY, "end_turn", "run-1"),
            Replied("", CANARY, "run-2"),
            Failed(CANARY),
            FateUnknown(CANARY),
            Rejected(Cause.REJECTED, CANARY),
        ]
    )
    await bench.pool().start()
    for number in range(1, 8):
        await bench.send(
            f"m{number}", number, content=f"{CANARY} {number}", metadata={"a": CANARY}, reply_to={"agent": CANARY}
        )
    await bench.client.hset("postroom:{acme}:message:m7", "envelope", CANARY)
    await bench.client.set("arq:job:standard-0", CANARY)
    await bench.client.zadd("postroom:arq:standard", {"standard-0": 1, CANARY: 1})

    async def has_run() -> bool:
        return len(bench.letta.calls) >= 6 and bench.letta.running == 0

    await until(has_run)
    await until(lambda: bench.workshop.server.granted == 0)
