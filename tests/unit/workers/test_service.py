"""Start and stop are the same for every long-running loop, and nothing that a step does ends one."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import fakeredis
import pytest
from redis.exceptions import ConnectionError as RedisAwayError
from structlog.testing import capture_logs

from tests.support.builders import Workshop, arq_on, resources
from tests.support.fake_letta_port import FakeLetta
from tests.support.time import FakeClock
from tests.support.waiting import until
from workers.broker.rules import Pool
from workers.directory.agents import Directory
from workers.directory.removal import Removal
from workers.dispatch.loop import Dispatcher
from workers.dispatch.ownership import Ownership
from workers.heartbeat import Heartbeat
from workers.mailbox.leases import Keeper
from workers.mailbox.sweep import Sweeper
from workers.pool import PoolService
from workers.resources import Resources
from workers.service import PAUSE_CAP_MS, Service
from workers.turn.breaker import Breaker
from workers.turn.guard import Prober

Make = Callable[[Resources], Service]


def workshop(one: Resources) -> Workshop:
    return Workshop(one, FakeLetta(), arq_on(one.client))


def dispatcher(one: Resources) -> Service:
    return Dispatcher(one, Ownership(one), Directory(one.client, FakeLetta(), one.clock), workshop(one).bells)


def pool(one: Resources) -> Service:
    parts = workshop(one)
    # Port 1: nobody is there. A service without its Redis starts, waits and stops all the same.
    return PoolService(one, "redis://127.0.0.1:1/0", parts.slots(Pool.STANDARD), parts.hands)


EVERY_SERVICE: dict[str, Make] = {
    "prober": lambda one: Prober(one, FakeLetta(), Breaker(one.clock)),
    "heartbeat": lambda one: Heartbeat(one, [], lambda: 0),
    "keeper": Keeper,
    "ownership": Ownership,
    "sweeper": lambda one: Sweeper(one, workshop(one).bells),
    "dispatcher": dispatcher,
    "pool": pool,
    "removal": Removal,
}


@pytest.fixture
async def parts() -> AsyncIterator[Resources]:
    client = fakeredis.FakeAsyncRedis()
    yield resources(client, log_level="error")
    await client.aclose()


@pytest.fixture
async def surprises() -> AsyncIterator[list[dict[str, Any]]]:
    """What nobody looked at: exceptions of tasks that were dropped."""
    found: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
    yield found
    await asyncio.sleep(0)
    gc.collect()
    assert found == []


async def test_every_service_stands_in_the_stress_test(parts: Resources) -> None:
    assert {type(make(parts)) for make in EVERY_SERVICE.values()} == set(Service.__subclasses__()) - {Stub}


@pytest.mark.parametrize("name", EVERY_SERVICE)
@pytest.mark.usefixtures("surprises")
class TestEveryService:
    async def test_it_starts_twice_and_stops_twice(self, parts: Resources, name: str) -> None:
        service = EVERY_SERVICE[name](parts)
        await service.start()
        await service.start()
        await asyncio.sleep(0.01)
        await asyncio.wait_for(asyncio.gather(service.stop(5), service.stop(5)), 10)
        await service.stop(5)

        assert service.stopping
        assert not service.ready

    async def test_a_stop_before_the_start_stands(self, parts: Resources, name: str) -> None:
        service = EVERY_SERVICE[name](parts)
        await service.stop(5)
        await service.start()
        await asyncio.sleep(0)

        assert service._task is None

    async def test_a_stop_at_any_moment_ends_it(self, parts: Resources, name: str) -> None:
        for yields in range(12):
            service = EVERY_SERVICE[name](parts)
            await service.start()
            for _ in range(yields):
                await asyncio.sleep(0)
            await asyncio.wait_for(service.stop(5), 10)
            assert service._task is not None
            assert service._task.done()

    async def test_it_stops_while_redis_is_away(self, parts: Resources, name: str) -> None:
        """Also what it does last, with a Redis that does not answer, is nobody's surprise."""
        service = EVERY_SERVICE[name](parts)
        await service.start()
        await asyncio.sleep(0.01)

        async def away(*_: object, **__: object) -> None:
            raise RedisAwayError("away")

        parts.client.connection_pool.get_connection = away
        await asyncio.sleep(0.01)
        await asyncio.wait_for(service.stop(5), 10)

        assert service._task is not None
        assert service._task.done()


class Stub(Service):
    """Does what the test says."""

    name = "stub"

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self.errors: list[Exception] = []
        self.steps = self.prepared = self.finished = 0
        self.hang: asyncio.Event | None = None
        self.prepare_error: Exception | None = None
        self.finish_error: Exception | None = None

    async def prepare(self) -> None:
        self.prepared += 1
        if self.prepare_error is not None:
            raise self.prepare_error

    async def step(self) -> None:
        self.steps += 1
        if self.hang is not None:
            await self.hang.wait()
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop(0)

    async def finish(self) -> None:
        self.finished += 1
        if self.finish_error is not None:
            raise self.finish_error


class Clockwork(FakeClock):
    """Remembers how long it was slept."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await super().sleep(seconds)


@pytest.fixture
def clock() -> Clockwork:
    return Clockwork()


@pytest.fixture
def stub(clock: Clockwork, surprises: list[dict[str, Any]]) -> Stub:
    return Stub(resources(fakeredis.FakeAsyncRedis(), clock=clock))


@pytest.mark.parametrize("error", [RedisAwayError("away"), OSError(), TimeoutError(), RuntimeError("bug"), KeyError()])
async def test_a_step_that_fails_is_tried_again_with_growing_pauses(
    stub: Stub, clock: Clockwork, error: Exception
) -> None:
    stub.errors = [error] * 8
    await stub.start()
    await until(lambda: not stub.errors)
    await until(lambda: stub.ready)
    await stub.stop()

    pauses = clock.slept[:8]
    assert len(pauses) == 8
    for number, pause in enumerate(pauses):
        step = min(PAUSE_CAP_MS, 100 * 2**number) / 1000
        assert step / 10 <= pause <= step
    assert stub.prepared == 9


async def test_a_prepare_that_fails_is_tried_again_and_can_be_stopped(stub: Stub) -> None:
    stub.prepare_error = RuntimeError("not yet")
    await stub.start()
    await until(lambda: stub.prepared >= 3)
    assert stub.steps == 0
    assert not stub.ready
    stub.prepare_error = None
    await until(lambda: stub.ready)
    stub.prepare_error = RuntimeError("again")
    stub.errors = [RuntimeError("bug")]
    await until(lambda: not stub.ready)
    await asyncio.wait_for(stub.stop(), 5)

    assert stub.finished == 1


async def test_what_does_not_end_within_the_grace_is_cut_and_still_finished(stub: Stub) -> None:
    stub.hang = asyncio.Event()
    await stub.start()
    await until(lambda: stub.steps == 1)
    await asyncio.wait_for(stub.stop(0.05), 5)

    assert stub.finished == 1


@pytest.mark.parametrize("error", [RedisAwayError("away"), RuntimeError("bug")])
async def test_an_error_at_the_very_end_is_logged_and_not_dropped(stub: Stub, error: Exception) -> None:
    stub.finish_error = error
    with capture_logs() as lines:
        await stub.start()
        await until(lambda: stub.ready)
        await stub.stop()

    assert stub._task is not None
    assert stub._task.exception() is None
    if isinstance(error, RuntimeError):
        assert [line["service"] for line in lines if line["log_level"] == "error"] == ["stub"]
