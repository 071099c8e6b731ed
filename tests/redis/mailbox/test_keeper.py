"""The keeper renews the leases of this process's turns, and cuts the turns whose lease is lost."""

import asyncio
from typing import Any

import pytest

from schemas.delivery import Taken
from tests.support.builders import resources
from tests.support.ledger import Ledger, agent_id
from tests.support.time import FakeClock
from workers.mailbox.leases import Keeper
from workers.settings import LEASE_SECONDS


class Bench:
    """A keeper whose process clock and whose scripts' clock move together."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.clock = FakeClock()
        self.resources = resources(ledger.client, scripts=ledger.scripts, clock=self.clock)
        self.keeper = Keeper(self.resources)
        self.tasks: list[asyncio.Task[None]] = []

    async def take(self, number: int) -> Taken:
        await self.ledger.send(f"m{number}", agent_id(number))
        (one,) = (await self.ledger.take(1)).taken
        return one

    def hold(self, one: Taken) -> asyncio.Task[None]:
        async def turn() -> None:
            await asyncio.Event().wait()

        task = asyncio.create_task(turn())
        self.tasks.append(task)
        self.keeper.hold(self.ledger.context, one, task, asked_at=self.clock.monotonic())
        return task

    def left(self, one: Taken) -> float:
        return self.keeper.seconds_left(self.ledger.context, one)

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.ledger.time.advance(seconds=seconds)


@pytest.fixture
async def bench(ledger: Ledger) -> Any:
    one = Bench(ledger)
    yield one
    for task in one.tasks:
        task.cancel()
    await asyncio.gather(*one.tasks, return_exceptions=True)


async def test_a_lease_that_is_renewed_lasts(bench: Bench) -> None:
    one = await bench.take(1)
    bench.hold(one)
    for _ in range(5):
        await bench.pass_time(10)
        await bench.keeper.renew()
        await bench.ledger.scripts.sweep(bench.ledger.context, seed="s", overflow_ms=1_000)

    assert await bench.ledger.state(one.id) == "running"
    assert bench.left(one) == LEASE_SECONDS


async def test_only_what_we_hold_is_renewed(bench: Bench) -> None:
    mine, dropped, never = await bench.take(1), await bench.take(2), await bench.take(3)
    bench.hold(mine)
    bench.hold(dropped)
    bench.keeper.release(bench.ledger.context, dropped)
    await bench.pass_time(10)
    await bench.keeper.renew()
    await bench.pass_time(10)
    await bench.ledger.scripts.sweep(bench.ledger.context, seed="s", overflow_ms=1_000)

    assert await bench.ledger.state(mine.id) == "running"
    assert {await bench.ledger.state(dropped.id), await bench.ledger.state(never.id)} == {"waiting"}


async def test_a_lost_lease_cuts_its_turn_and_no_other(bench: Bench) -> None:
    lost, kept = await bench.take(1), await bench.take(2)
    lost_turn, kept_turn = bench.hold(lost), bench.hold(kept)
    await bench.pass_time(10)
    await bench.ledger.scripts.renew(bench.ledger.context, lease_ms=15_000, pairs=[(kept.agent, kept.token)])
    await bench.pass_time(6)
    await bench.ledger.take(1)
    await bench.keeper.renew()
    await asyncio.wait({lost_turn}, timeout=5)

    assert lost_turn.cancelled()
    assert not kept_turn.done()
    assert bench.left(lost) == 0
    assert bench.left(kept) > 0


async def test_a_turn_whose_agent_was_taken_again_here_is_cut_at_once(bench: Bench) -> None:
    """The lease ran out unseen (Redis was away), and a drain of this process took the delivery anew: the new
    token proves that the old turn's lease is gone.
    """
    first = await bench.take(1)
    old = bench.hold(first)
    await bench.pass_time(16)
    (second,) = (await bench.ledger.take(1)).taken
    new = bench.hold(second)
    await asyncio.wait({old}, timeout=5)

    assert old.cancelled()
    bench.keeper.release(bench.ledger.context, first)
    assert bench.left(first) == 0
    assert bench.left(second) == LEASE_SECONDS
    await bench.keeper.renew()
    assert not new.done()


async def test_time_left_is_counted_from_before_the_lease_was_asked_for(bench: Bench) -> None:
    one = await bench.take(1)
    asked_at = bench.clock.monotonic()
    bench.clock.advance(3)
    task = asyncio.current_task()
    assert task is not None
    bench.keeper.hold(bench.ledger.context, one, task, asked_at=asked_at)

    assert bench.left(one) == LEASE_SECONDS - 3
    bench.clock.advance(60)
    assert bench.left(one) == 0
    bench.keeper.release(bench.ledger.context, one)


async def test_a_renewal_that_redis_did_not_answer_adds_no_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await bench.take(1)
    turn = bench.hold(one)
    bench.clock.advance(10)

    async def away(*_: object, **__: object) -> frozenset[str]:
        raise ConnectionError

    monkeypatch.setattr(bench.ledger.scripts, "renew", away)
    with pytest.raises(ConnectionError):
        await bench.keeper.renew()

    assert bench.left(one) == LEASE_SECONDS - 10
    assert not turn.done()
