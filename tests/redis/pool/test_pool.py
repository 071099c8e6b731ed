"""HAZARDS.md section 1, row by row: what arq does when it is left to itself, and what it does here."""

import asyncio
import os
import pickle
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.redis.pool.conftest import PoolBench
from tests.support.builders import Workshop
from tests.support.ledger import agent_id
from tests.support.redis_server import RedisServer
from tests.support.waiting import until
from workers import pool
from workers.broker import keys
from workers.broker.arq import job_id
from workers.broker.rules import Pool
from workers.turn.letta.contract import Call

QUEUE = keys.queue(Pool.STANDARD)


def now_ms() -> int:
    return int(time.time() * 1000)


async def test_a_message_becomes_a_turn_and_nothing_of_arqs_is_left_behind(pool_bench: PoolBench) -> None:
    """A15, A16: no results, no retries, no aborts, no job keys."""
    await pool_bench.pool().start()
    for number in range(1, 21):
        await pool_bench.send(f"m{number}", number)
    for number in range(1, 21):
        await until(lambda number=number: pool_bench.is_delivered(f"m{number}"))  # type: ignore[misc]

    async def is_clean() -> bool:
        return await pool_bench.arq_keys() == set()

    await until(is_clean)


class Bomb:
    """Runs a command where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize(
    "payload",
    [
        b"pickle",
        b"",
        b"{}",
        b"null",
        b"\xff\xfe",
        b"[" * 4_000,
        b"x" * 100_000,
        b'{"t":null,"f":"drain","a":["acme"],"k":{},"et":"soon"}',
        b'{"t":null,"f":"drain","a":["acme"],"k":{}}',
        b'{"t":null,"f":"drain","a":["acme"],"k":{},"et":1e999}',
        b'{"t":null,"f":"drain","a":["{acme}:*"],"k":{},"et":1}',
        b'{"t":null,"f":"drain","a":[],"k":{},"et":1}',
        b'{"t":null,"f":"drain","a":["acme","x"],"k":{},"et":1}',
        b'{"t":null,"f":"drain","a":["acme"],"k":{"x":1},"et":1}',
        b'{"t":null,"f":"os.system","a":["acme"],"k":{},"et":1}',
        b'{"t":99999,"f":"drain","a":["acme"],"k":{},"et":1}',
        None,
    ],
)
async def test_whatever_stands_in_a_job_runs_nothing_and_stops_nothing(
    pool_bench: PoolBench, tmp_path: Path, payload: bytes | None
) -> None:
    """A1, A6, A12: pickle, garbage, odd fields, other functions, and no payload at all."""
    made = tmp_path / "made"
    if payload == b"pickle":
        payload = pickle.dumps({"t": None, "f": "drain", "a": (Bomb(made),), "k": {}, "et": 1})
    bad = job_id(Pool.STANDARD, "0bad")
    if payload is not None:
        await pool_bench.client.set(f"arq:job:{bad}", payload)
    await pool_bench.client.zadd(QUEUE, {bad: 1})
    service = pool_bench.pool()
    await service.start()
    await pool_bench.send("m1")

    await until(lambda: pool_bench.is_delivered("m1"))
    assert service.ready
    assert not made.exists()

    async def is_clean() -> bool:
        return await pool_bench.arq_keys() == set()

    await until(is_clean)


@pytest.mark.parametrize("member", [b"\xff\xfe\xfd", b"", b"cron:drain:1", b"standard-\xff", b"bulk_1", b"a" * 10_000])
async def test_a_queue_entry_of_nobodys_is_quarantined(pool_bench: PoolBench, member: bytes) -> None:
    """A11: one non-UTF-8 member at the head stopped every worker, for ever."""
    await pool_bench.client.zadd(QUEUE, {member: 1})
    service = pool_bench.pool()
    await service.start()
    await pool_bench.send("m1")

    await until(lambda: pool_bench.is_delivered("m1"))
    assert service.ready
    assert await pool_bench.client.zscore(QUEUE, member) is None


async def test_an_entry_that_arq_never_runs_does_not_count_as_a_rival(pool_bench: PoolBench) -> None:
    """A22: a score of 0 is never run and never removed by arq; it would make every tenant's share smaller."""
    for number in range(20):
        await pool_bench.client.zadd(QUEUE, {job_id(Pool.STANDARD, f"zero{number}"): 0})
    service = pool_bench.pool()
    await service.start()
    await pool_bench.send("m1")
    await until(lambda: pool_bench.is_delivered("m1"))

    async def is_clean() -> bool:
        return bool(await pool_bench.client.zcard(QUEUE) == 0)

    await until(is_clean)
    assert service.slots.rivals == 0


@pytest.mark.parametrize("score", [float("-inf"), -1, -1e300])
async def test_a_job_due_before_all_time_holds_up_nothing_behind_it(pool_bench: PoolBench, score: float) -> None:
    """Found by tests/fuzz: arq failed at every poll over a score that is no number of milliseconds."""
    await pool_bench.client.zadd(QUEUE, {job_id(Pool.STANDARD, "early"): score})
    service = pool_bench.pool()
    await service.start()
    await pool_bench.send("m1")

    await until(lambda: pool_bench.is_delivered("m1"))
    assert service.ready
    assert await pool_bench.client.zscore(QUEUE, job_id(Pool.STANDARD, "early")) is None


async def test_a_stale_abort_mark_stops_nothing(pool_bench: PoolBench) -> None:
    """A16: arq's abort list is global and never cleaned."""
    await pool_bench.client.zadd("arq:abort", {job_id(Pool.STANDARD, "m1"): now_ms()})
    await pool_bench.pool().start()
    await pool_bench.send("m1")

    await until(lambda: pool_bench.is_delivered("m1"))


async def test_the_bell_wakes_a_worker_within_milliseconds(
    pool_bench: PoolBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "POLL_SECONDS", 30.0)
    service = pool_bench.pool()
    await service.start()
    await until(lambda: service.ready)
    waits = []
    for number in range(1, 6):
        began = time.monotonic()
        await pool_bench.send(f"m{number}", number)
        await until(lambda number=number: pool_bench.is_delivered(f"m{number}"))  # type: ignore[misc]
        waits.append(time.monotonic() - began)

    assert min(waits) < 0.1
    assert max(waits) < 2


async def test_a_job_whose_bell_was_lost_is_found_by_the_poll(pool_bench: PoolBench) -> None:
    service = pool_bench.pool()
    await service.start()
    await until(lambda: service.ready)
    await pool_bench.client.delete("postroom:{acme}:rung")
    publish = pool_bench.arq.publish
    pool_bench.arq.publish = _silent
    await pool_bench.send("m1")
    pool_bench.arq.publish = publish

    await until(lambda: pool_bench.is_delivered("m1"), within=3)


async def _silent(*_: object) -> int:
    return 0


async def test_no_job_is_picked_while_there_is_no_room_for_a_turn(pool_bench: PoolBench) -> None:
    """It stays in the queue for a process that has room."""
    pool_bench.letta.gate = asyncio.Event()
    service = pool_bench.pool(size=1)
    await service.start()
    await pool_bench.send("m1", 1)
    await until(lambda: pool_bench.letta.running == 1)
    await until(lambda: not service._worker.tasks)
    await pool_bench.workshop.bells.hand_on(pool_bench.context, Pool.STANDARD)
    for _ in range(3):
        await service._worker.poll()

    assert await pool_bench.client.zcard(QUEUE) >= 1
    assert service._worker.job_counter == 0
    pool_bench.letta.gate.set()

    async def is_clean() -> bool:
        return bool(await pool_bench.client.zcard(QUEUE) == 0)

    await until(is_clean)


async def test_a_stop_lets_turns_finish_and_picks_up_nothing_more(pool_bench: PoolBench) -> None:
    """A14: a deploy repeats no call."""
    pool_bench.letta.gate = asyncio.Event()
    service = pool_bench.pool()
    await service.start()
    await pool_bench.send("m1", 1)
    await until(lambda: pool_bench.letta.running == 1)
    stopping = asyncio.create_task(service.stop(30))
    await until(lambda: service.stopping)
    await pool_bench.send("m2", 2)
    assert not stopping.done()
    pool_bench.letta.gate.set()
    await asyncio.wait_for(stopping, 10)

    assert await pool_bench.state("m1") == "delivered"
    assert await pool_bench.state("m2") == "waiting"
    assert len(pool_bench.letta.calls) == 1


async def test_a_stop_does_not_wait_longer_than_its_grace(pool_bench: PoolBench) -> None:
    pool_bench.letta.gate = asyncio.Event()
    service = pool_bench.pool()
    await service.start()
    await pool_bench.send("m1", 1)
    await until(lambda: pool_bench.letta.running == 1)
    began = time.monotonic()
    await service.stop(0.2)

    assert time.monotonic() - began < 3


async def test_a_worker_that_falls_silent_over_a_drain_holds_its_tenant_up_for_seconds(
    pool_bench: PoolBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A4: arq's mark of a running job outlives its worker by the job's timeout and ten seconds. What the dead worker
    had not taken yet need not wait for that.
    """
    take = pool_bench.resources.scripts.take
    silent, buried = asyncio.Event(), asyncio.Event()

    async def hang_once(*arguments: Any, **named: Any) -> Any:
        if not silent.is_set():
            silent.set()
            await buried.wait()
        return await take(*arguments, **named)

    monkeypatch.setattr(pool_bench.resources.scripts, "take", hang_once)
    for _ in range(2):
        # As in processes of their own: what one holds does not bind the other.
        pool_bench.workshop = Workshop(pool_bench.resources, pool_bench.letta, pool_bench.arq)
        await pool_bench.pool().start()
    await pool_bench.send("m1")
    await silent.wait()

    await until(lambda: pool_bench.is_delivered("m1"), within=6)
    buried.set()


async def test_the_worker_outlives_its_redis(fragile: tuple[PoolBench, RedisServer]) -> None:
    """A2: arq's own worker exits on any error of its poll loop."""
    bench, server = fragile
    service = bench.pool()
    await service.start()
    await bench.send("m1", 1)
    await until(lambda: bench.is_delivered("m1"))
    server.kill()
    await until(lambda: not service.ready, within=15)
    server.start()
    back = time.monotonic()
    await until(lambda: service.ready, within=15)
    await bench.send("m2", 2)
    await until(lambda: bench.is_delivered("m2"), within=15)

    assert time.monotonic() - back < 5


async def test_a_turn_that_ends_while_redis_is_away_is_settled_when_it_is_back(
    fragile: tuple[PoolBench, RedisServer],
) -> None:
    bench, server = fragile
    bench.letta.gate = asyncio.Event()
    await bench.pool().start()
    await bench.send("m1", 1)
    await until(lambda: bench.letta.running == 1)
    server.kill()
    bench.letta.gate.set()
    await until(lambda: bench.letta.running == 0)
    server.start()

    await until(lambda: bench.is_delivered("m1"), within=15)
    assert len(bench.letta.calls) == 1


async def test_a_redis_that_hangs_is_noticed_and_survived(fragile: tuple[PoolBench, RedisServer]) -> None:
    """A3: without a read timeout, a half-open connection is a silent worker."""
    bench, server = fragile
    service = bench.pool()
    await service.start()
    await until(lambda: service.ready)
    server.signal(signal.SIGSTOP)
    try:
        await until(lambda: not service.ready, within=15)
    finally:
        server.signal(signal.SIGCONT)
    await bench.send("m1", 1)

    await until(lambda: bench.is_delivered("m1"), within=15)


async def test_a_drain_that_arq_cuts_ends_like_any_other(
    pool_bench: PoolBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Stuck in Redis, or in a process that was frozen: nothing is wrong with the job, and arq must not say so."""
    began = asyncio.Event()

    async def hang(*_: Any, **__: Any) -> None:
        began.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(pool, "SLICE_SECONDS", 0.1)
    monkeypatch.setattr(pool, "DRAIN_MARGIN_SECONDS", 0.1)
    monkeypatch.setattr(pool_bench.resources.scripts, "take", hang)
    await pool_bench.pool().start()
    await pool_bench.send("m1")
    await began.wait()

    async def is_over() -> bool:
        return await pool_bench.arq_keys() == set()

    await until(is_over)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_bug_in_a_turn_never_reaches_arq(pool_bench: PoolBench) -> None:
    """A7, A8: to arq a plain exception is the end of the job, payload and all."""

    def err(call: Call) -> None:
        if call.agent == agent_id(1):
            raise RuntimeError("bug")

    pool_bench.letta.on_turn = err
    service = pool_bench.pool()
    await service.start()
    await pool_bench.send("m1", 1)
    await pool_bench.send("m2", 2)

    await until(lambda: pool_bench.is_delivered("m2"))
    assert service._worker.jobs_failed == 0
    assert service.ready


async def test_more_jobs_than_arq_looks_at_by_itself_all_run(pool_bench: PoolBench) -> None:
    """A9: arq reads the first 100 ids only, running ones included."""
    await pool_bench.client.zadd(QUEUE, {job_id(Pool.STANDARD, f"0{number}"): 1 for number in range(300)})
    await pool_bench.pool().start()
    await pool_bench.send("m1", 1)

    await until(lambda: pool_bench.is_delivered("m1"))
    assert pool_bench.letta.calls[0].agent == agent_id(1)
