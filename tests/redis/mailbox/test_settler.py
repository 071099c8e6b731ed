"""The settler writes how turns ended: many in one script, and for as long as Redis is away."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis.exceptions import NoScriptError, OutOfMemoryError, ReadOnlyError, ResponseError

from schemas.context import Context
from schemas.delivery import Cause, State, Taken
from tests.support.builders import arq_on, resources
from tests.support.ledger import Ledger, agent_id
from tests.support.time import FakeClock
from tests.support.waiting import until
from workers.broker import keys
from workers.broker.results import Settled, Settlement
from workers.errors import NotSettledError
from workers.mailbox.ring import Bells
from workers.mailbox.settle import BATCH, Settler


class Bench:
    """A settler whose script can be held at a gate, or made to fail."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.clock = FakeClock()
        self.resources = resources(ledger.client, scripts=ledger.scripts, clock=self.clock)
        self.settler = Settler(self.resources, Bells(arq_on(ledger.client), ledger.scripts, self.resources.log))
        self.batches: list[tuple[str, list[str]]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.errors: list[Exception] = []
        self._settle = ledger.scripts.settle
        ledger.scripts.settle = self._gated  # type: ignore[method-assign]

    async def _gated(self, context: Context, *, seed: str, settlements: Sequence[Settlement]) -> Settled:
        self.batches.append((seed, [one.delivery_id for one in settlements]))
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        return await self._settle(context, seed=seed, settlements=settlements)

    async def take(self, count: int) -> list[Taken]:
        for number in range(1, count + 1):
            await self.ledger.send(f"m{number}", agent_id(number))
        return list((await self.ledger.take(count)).taken)

    def settle(self, one: Taken, *, rings: bool = True, **more: Any) -> asyncio.Task[str]:
        settlement = Settlement(one.id, one.agent, one.token, State.DELIVERED, Cause.REPLIED, **more)
        return asyncio.create_task(self.settler.settle(self.ledger.context, settlement, rings=rings))


@pytest.fixture
def bench(ledger: Ledger) -> Bench:
    return Bench(ledger)


async def test_what_comes_while_a_script_runs_goes_with_the_next(bench: Bench) -> None:
    first, *rest = await bench.take(10)
    bench.gate.clear()
    tasks = [bench.settle(first)]
    while not bench.batches:
        await asyncio.sleep(0)
    tasks += [bench.settle(one) for one in rest]
    await asyncio.sleep(0)
    bench.gate.set()

    assert await asyncio.gather(*tasks) == ["settled"] * 10
    assert [ids for _, ids in bench.batches] == [[first.id], [one.id for one in rest]]


async def test_a_batch_is_bounded(bench: Bench) -> None:
    await bench.ledger.client.hset(bench.ledger.keys.tenant, "in_flight", 1_000)
    taken = await bench.take(BATCH + 2)
    results = await asyncio.gather(*(bench.settle(one) for one in taken))

    assert set(results) == {"settled"}
    assert max(len(ids) for _, ids in bench.batches) == BATCH


async def test_everybody_hears_his_own_result(bench: Bench) -> None:
    mine, lost, twice = await bench.take(3)
    stale = Taken(**{name: getattr(lost, name) for name in lost.__slots__} | {"token": 999})
    await bench.ledger.settle(twice)
    bench.batches.clear()

    assert list(await asyncio.gather(bench.settle(mine), bench.settle(stale), bench.settle(twice))) == [
        "settled",
        "lost",
        "already",
    ]


async def test_it_waits_as_long_as_redis_is_away(bench: Bench) -> None:
    (one,) = await bench.take(1)
    bench.errors = [ConnectionError("away"), TimeoutError(), OSError("still")] * 5

    assert await bench.settle(one) == "settled"
    assert len(bench.batches) == 16
    assert len({seed for seed, _ in bench.batches}) == 1


async def test_an_error_of_ours_reaches_everybody_in_the_batch_and_nobody_else(bench: Bench) -> None:
    first, second, third = await bench.take(3)
    bench.gate.clear()
    bench.errors = [ValueError("bug")]
    cut = bench.settle(first)
    while not bench.batches:
        await asyncio.sleep(0)
    others = [bench.settle(second), bench.settle(third)]
    await asyncio.sleep(0)
    bench.gate.set()

    with pytest.raises(ValueError, match="bug"):
        await cut
    assert await asyncio.gather(*others) == ["settled", "settled"]
    assert await bench.settle(first) == "settled"


async def test_what_redis_refuses_for_good_fails_alone_and_at_once(bench: Bench) -> None:
    """A delivery whose record somebody made a string: no patience mends it, and the lease is left to the reaper."""
    good, bad, other = await bench.take(3)
    record = bench.ledger.keys.delivery(bad.id)
    await bench.ledger.client.delete(record)
    await bench.ledger.client.set(record, "not a hash")
    results = await asyncio.gather(*(bench.settle(one) for one in (good, bad, other)), return_exceptions=True)

    # "already": the script had come so far before it failed.
    assert [results[0], results[2]] == ["already", "settled"]
    assert isinstance(results[1], NotSettledError)
    assert await bench.ledger.state(good.id) == await bench.ledger.state(other.id) == "delivered"
    assert bench.clock.monotonic() == FakeClock().monotonic()


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("command not allowed"),
        ReadOnlyError("You can't write against a read only replica."),
        NoScriptError("No matching script."),
        ResponseError("MISCONF Redis is configured to save RDB snapshots"),
        ResponseError("BUSY Redis is busy running a script"),
        ResponseError("Error running script (call to f_ab): @user_script:3: @user_script: 3: -OOM command not allowed"),
    ],
)
async def test_what_time_or_an_operator_mends_is_waited_for(bench: Bench, error: Exception) -> None:
    (one,) = await bench.take(1)
    bench.errors = [error]

    assert await bench.settle(one) == "settled"
    assert len(bench.batches) == 2


async def test_one_who_no_longer_waits_holds_up_nobody(bench: Bench) -> None:
    first, second = await bench.take(2)
    bench.gate.clear()
    gone, waits = bench.settle(first), bench.settle(second)
    while not bench.batches:
        await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait({gone})
    bench.gate.set()

    assert await waits == "settled"
    assert await bench.ledger.state(first.id) == "delivered"


async def test_who_takes_again_by_himself_rings_nobody(bench: Bench) -> None:
    quiet, loud = await bench.take(2)
    await bench.ledger.send("m3", quiet.agent)
    await bench.ledger.take(10)
    await bench.ledger.client.delete(keys.queue("standard"))

    await bench.settle(quiet, rings=False)
    assert [seed for seed, _ in bench.batches] == [""]
    assert await bench.ledger.client.zcard(keys.queue("standard")) == 0
    await bench.settle(loud)

    async def has_rung() -> bool:
        return bool(await bench.ledger.client.zcard(keys.queue("standard")) == 1)

    await until(has_rung)


async def test_nothing_is_left_behind_when_all_is_settled(bench: Bench) -> None:
    taken = await bench.take(5)
    await asyncio.gather(*(bench.settle(one) for one in taken))

    await until(lambda: not bench.settler._flushing)
    assert not bench.settler._pending
