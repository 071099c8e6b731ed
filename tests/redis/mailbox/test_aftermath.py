"""What a dead process held, over all tenants, and who comes for it."""

import pytest

from schemas.context import Operator, service_context
from tests.support.builders import arq_on, resources
from tests.support.ledger import OWNER, Ledger, agent_id
from workers.broker import keys
from workers.broker.arq import in_progress_key
from workers.broker.rules import Pool
from workers.mailbox.aftermath import AT_ONCE, Aftermath, Freed
from workers.mailbox.ring import Bells

DEAD = "worker-1"
OPERATOR = Operator("test")
QUEUE = keys.queue(Pool.STANDARD)


class Bench:
    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.client = ledger.client
        resources_ = resources(ledger.client, scripts=ledger.scripts)
        self.aftermath = Aftermath(resources_, Bells(arq_on(ledger.client), ledger.scripts, resources_.log))

    async def clear(self, process_id: str = DEAD) -> Freed:
        return await self.aftermath.clear(OPERATOR, process_id)

    async def other(self, tenant: str) -> Ledger:
        ledger = Ledger(self.client, self.ledger.time, service_context(tenant, "test"))
        await ledger.register()
        return ledger

    async def queued(self) -> int:
        return int(await self.client.zcard(QUEUE))


@pytest.fixture
def bench(ledger: Ledger) -> Bench:
    return Bench(ledger)


async def test_every_tenants_turns_are_freed_and_rung_for(bench: Bench) -> None:
    globex = await bench.other("globex")
    for one in (bench.ledger, globex):
        await one.send("m1", agent_id(1), seed="")  # type: ignore[arg-type]
        await one.take()
    assert await bench.queued() == 0

    assert await bench.clear() == Freed(leases=2, streams=0)

    assert await bench.queued() == 2
    for one in (bench.ledger, globex):
        assert await one.take_ids() == ["m1:1"]


async def test_a_dead_dispatcher_is_forgotten_and_the_others_are_woken(bench: Bench) -> None:
    """Its sign of life goes, it no longer counts when streams are shared out, and its streams are free."""
    await bench.client.set(keys.process(OWNER), "alive")
    await bench.client.zadd(keys.dispatchers(), {OWNER: 9e9, "dispatcher-2": 9e9})

    assert await bench.clear(OWNER) == Freed(leases=0, streams=1)

    assert await bench.client.exists(keys.process(OWNER), bench.ledger.keys.dispatcher) == 0
    assert await bench.client.zrange(keys.dispatchers(), 0, -1) == [b"dispatcher-2"]
    assert await bench.client.xlen(keys.control()) == 1


async def test_a_dead_worker_wakes_no_dispatcher(bench: Bench) -> None:
    await bench.clear()
    assert await bench.client.xlen(keys.control()) == 0


@pytest.mark.parametrize(("begun", "queued"), [(True, 1), (False, 0)])
async def test_a_drain_that_may_have_died_with_it_is_handed_on(bench: Bench, *, begun: bool, queued: int) -> None:
    """arq keeps others from a drain that has begun for seconds; one that waits in the queue comes anyway."""
    await bench.ledger.send("m1", seed="claimed")  # type: ignore[arg-type]
    assert await bench.client.hexists(bench.ledger.keys.rung, "standard")
    if begun:
        await bench.client.set(in_progress_key(Pool.STANDARD, "claimed"), 1)

    await bench.clear()

    assert await bench.queued() == queued


async def test_many_tenants_are_looked_at_in_rounds(bench: Bench) -> None:
    """And those that the process has nothing of are left alone."""
    names = [f"t-{number}" for number in range(2 * AT_ONCE)]
    await bench.client.sadd(keys.tenants(), *names)
    last = await bench.other("zz-last")
    await last.send("m1")
    await last.take()

    assert await bench.clear() == Freed(leases=1, streams=0)
