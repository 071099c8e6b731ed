"""A drain empties a tenant's mailboxes for its slice of time, and leaves nobody behind unrung."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from schemas.delivery import Cause, State
from schemas.envelope import Envelope
from tests.support.builders import Workshop, agent, arq_on, envelope, of_tenant, resources
from tests.support.fake_letta_port import FakeLetta
from tests.support.key_check import audit
from tests.support.ledger import Ledger, agent_id
from tests.support.time import FakeClock
from tests.support.waiting import until
from workers.broker import keys
from workers.broker.results import Move, TakenBatch
from workers.broker.rules import Pool
from workers.tasks import end
from workers.turn.drain import SLICE_SECONDS, Drain
from workers.turn.slots import Slots

AGENTS = 12
SHARE = 4
"""Of the six turns the server is given at first: one is for express, one for a tenant that has none."""


class Bench:
    """A workshop on a ledger. The process's clock stands still: a slice ends when the test says so."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.clock = FakeClock()
        self.letta = FakeLetta(roster=[agent(number) for number in range(1, AGENTS + 1)])
        self.workshop = Workshop(
            resources(ledger.client, scripts=ledger.scripts, clock=self.clock), self.letta, arq_on(ledger.client)
        )
        self.slots = self.workshop.slots(size=8)
        self.turns: set[asyncio.Task[None]] = set()
        self.stopping = asyncio.Event()
        self.drains: list[asyncio.Task[None]] = []

    async def send(self, message_id: str, number: int = 1, **fields: Any) -> None:
        said = envelope(id=message_id, to={"agent": agent_id(number)}, **fields)
        scripts, context = self.ledger.scripts, self.ledger.context
        published = await scripts.publish(
            context, message_id=message_id, digest=said.digest(), envelope=said.to_wire(), size=len(said.content)
        )
        assert published.status == "accepted"
        await self.ledger.time.advance(ms=0.001)
        move = Move(
            entry_id=await self.ledger.entry_of(message_id),
            message_id=message_id,
            digest=said.digest(),
            envelope=said.to_wire(),
            size=len(said.content),
            rank=said.priority.rank,
            not_before_ms=None,
            expires_at_ms=None,
            recipients=((agent_id(number), ()),),
        )
        await scripts.dispatch(context, owner="dispatcher-1", move=move, seed="seed")

    def drain(self, slots: Slots | None = None) -> asyncio.Task[None]:
        one = Drain(self.ledger.context, slots or self.slots, self.workshop.hands, self.turns)
        task = asyncio.create_task(one.run(self.stopping))
        self.drains.append(task)
        return task

    async def finish(self) -> None:
        await until(lambda: not self.turns)

    async def states(self) -> dict[str, str]:
        ledgered = await audit(self.ledger.client, self.ledger.context, self.ledger.time.now_us)
        return ledgered.states()

    async def queued(self, pool: Pool = Pool.STANDARD) -> int:
        count: int = await self.ledger.client.zcard(keys.queue(pool))
        return count

    async def claims(self) -> set[str]:
        return {pool.decode() for pool in await self.ledger.client.hkeys("postroom:{acme}:rung")}

    def end_of_slice(self) -> None:
        self.clock.advance(SLICE_SECONDS)


@pytest.fixture
async def bench(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr("tests.support.key_check.unknown_keys", _no_arq_keys)
    one = Bench(ledger)
    yield one
    await end(*one.drains, *one.turns)


async def _no_arq_keys(*_: object) -> list[str]:
    """arq's own keys stand beside the tenant's here."""
    return []


async def test_a_drain_runs_dry_and_clears_its_claim(bench: Bench) -> None:
    for number in range(1, 6):
        await bench.send(f"m{number}", number)
    assert await bench.claims() == {"standard"}
    await asyncio.wait_for(bench.drain(), 10)

    assert set((await bench.states()).values()) == {"delivered"}
    assert await bench.claims() == set()
    assert bench.slots.in_use == 0
    assert len(bench.letta.calls) == 5


async def test_one_drain_takes_an_agents_next_message_as_the_last_one_ends(bench: Bench) -> None:
    for number in range(1, 8):
        await bench.send(f"m{number}", 1)
    await asyncio.wait_for(bench.drain(), 10)

    assert [call.otid.split(":")[2] for call in bench.letta.calls] == [f"m{number}" for number in range(1, 8)]
    assert bench.letta.most_running[agent_id(1)] == 1
    assert set((await bench.states()).values()) == {"delivered"}


async def test_agents_have_their_turns_side_by_side_up_to_the_tenants_share(bench: Bench) -> None:
    bench.letta.gate = asyncio.Event()
    for number in range(1, AGENTS + 1):
        await bench.send(f"m{number}", number)
    drain = bench.drain()
    await until(lambda: bench.letta.running == bench.slots.in_use == SHARE)
    bench.letta.gate.set()
    await asyncio.wait_for(drain, 10)

    assert len(bench.letta.calls) == AGENTS


async def test_a_slice_that_is_over_hands_what_is_left_to_the_next_drain(bench: Bench) -> None:
    bench.letta.gate = asyncio.Event()
    for number in range(1, AGENTS + 1):
        await bench.send(f"m{number}", number)
    await bench.ledger.client.delete("postroom:{acme}:rung")
    drain = bench.drain()
    await until(lambda: bench.letta.running == SHARE)
    bench.end_of_slice()
    await asyncio.wait_for(drain, 10)

    assert await bench.claims() == {"standard"}
    assert await bench.queued() == 1
    assert bench.letta.running == SHARE
    bench.letta.gate.set()
    await bench.finish()
    await asyncio.wait_for(bench.drain(), 10)
    assert set((await bench.states()).values()) == {"delivered"}


async def test_turns_outlive_their_drain_and_ring_when_they_end(bench: Bench) -> None:
    bench.letta.gate = asyncio.Event()
    await bench.send("m1", 1)
    await bench.send("m2", 1)
    drain = bench.drain()
    await until(lambda: bench.letta.running == 1)
    bench.end_of_slice()
    await asyncio.wait_for(drain, 10)
    assert await bench.queued() == 0
    bench.letta.gate.set()
    await bench.finish()

    async def has_rung() -> bool:
        return await bench.queued() == 1

    await until(has_rung)
    assert await bench.claims() == {"standard"}


async def test_a_settlement_at_the_very_end_of_a_drain_still_wakes_whoever_is_behind_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It rang nobody, because the drain was about to take again; then the slice was over."""
    await bench.send("m1", 1)
    await bench.send("m2", 1)
    settle = bench.ledger.scripts.settle

    async def settle_late(*args: Any, **options: Any) -> Any:
        assert options["seed"] == ""
        bench.end_of_slice()
        return await settle(*args, **options)

    monkeypatch.setattr(bench.ledger.scripts, "settle", settle_late)
    await asyncio.wait_for(bench.drain(), 10)
    await bench.finish()

    assert (await bench.states())["m2:1"] == "waiting"
    assert await bench.claims() == {"standard"}
    assert await bench.queued() == 1


@pytest.mark.parametrize("yields", range(0, 30, 3))
async def test_no_wake_up_is_lost_wherever_the_slice_ends(bench: Bench, yields: int) -> None:
    """The slice ends after so many steps of the loop, wherever that is: take, call, settle, or between."""
    if bench.ledger.client.connection_pool.connection_class.__module__.startswith("redis."):
        yields *= 3
    for number in range(1, 4):
        await bench.send(f"m{number}", 1)
    drain = bench.drain()
    for _ in range(yields):
        await asyncio.sleep(0)
    bench.end_of_slice()
    await asyncio.wait_for(drain, 10)
    await bench.finish()
    waiting = [id_ for id_, state in (await bench.states()).items() if state == "waiting"]

    if waiting:
        assert await bench.claims() == {"standard"}

        async def has_rung() -> bool:
            return await bench.queued() >= 1

        await until(has_rung)


async def test_a_drain_without_room_hands_on(bench: Bench) -> None:
    await bench.send("m1", 1)
    slots = bench.workshop.slots(size=1)
    slots.grant(of_tenant("globex"))
    drain = bench.drain(slots)
    await asyncio.sleep(0)
    bench.end_of_slice()
    await asyncio.wait_for(drain, 10)

    assert bench.letta.calls == []
    assert await bench.queued() == 1


async def test_a_drain_that_is_asked_to_end_hands_on_and_lets_its_turns_finish(bench: Bench) -> None:
    bench.letta.gate = asyncio.Event()
    for number in range(1, AGENTS + 1):
        await bench.send(f"m{number}", number)
    await bench.ledger.client.delete("postroom:{acme}:rung")
    drain = bench.drain()
    await until(lambda: bench.letta.running == SHARE)
    bench.stopping.set()
    bench.letta.gate.set()
    await asyncio.wait_for(drain, 10)
    await bench.finish()

    assert len(bench.letta.calls) >= SHARE
    assert await bench.queued() >= 1
    assert bench.slots.in_use == 0


async def test_redis_away_in_the_take_gives_the_slots_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.send("m1", 1)

    async def away(*_: object, **__: object) -> TakenBatch:
        raise ConnectionError

    monkeypatch.setattr(bench.ledger.scripts, "take", away)
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(bench.drain(), 10)

    assert bench.slots.in_use == 0
    assert bench.workshop.server.granted == 0


async def test_a_lost_lease_cuts_the_turn_and_gives_its_slot_back(bench: Bench) -> None:
    bench.letta.gate = asyncio.Event()
    await bench.send("m1", 1)
    drain = bench.drain()
    await until(lambda: bench.letta.running == 1)
    bench.end_of_slice()
    await asyncio.wait_for(drain, 10)
    await bench.ledger.time.advance(seconds=16)
    await bench.ledger.scripts.sweep(bench.ledger.context, seed="s", overflow_ms=1_000)
    await bench.workshop.keeper.renew()
    await bench.finish()

    assert bench.slots.in_use == 0
    assert await bench.ledger.field("m1:1", "crashes") == "1"


async def test_an_envelope_that_a_hand_in_redis_spoiled_ends_as_a_dead_letter(bench: Bench) -> None:
    await bench.send("m1", 1)
    await bench.send("m2", 2)
    await bench.ledger.client.hset(bench.ledger.keys.message("m1"), "envelope", b"\xff{")
    await asyncio.wait_for(bench.drain(), 10)

    assert await bench.states() == {"m1:1": State.DEAD, "m2:1": State.DELIVERED}
    assert await bench.ledger.field("m1:1", "cause") == Cause.INVALID
    assert len(bench.letta.calls) == 1


SURVEY = b'{"id":"m1","to":{"agent":"x"},"content":"hello","kind":"survey","hints":{"a":1}}'


class NextEnvelope(Envelope):
    kind: str = "request"  # type: ignore[assignment]


async def test_a_delivery_of_a_newer_version_is_left_for_a_newer_worker_at_no_cost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.send("m1")
    await bench.send("m2", 2)
    await bench.ledger.client.hset(bench.ledger.keys.message("m1"), "envelope", SURVEY)
    for _ in range(3):
        await bench.drain()
        await bench.finish()
        await bench.ledger.time.advance(seconds=2)
    assert await bench.states() == {"m1:1": "waiting", "m2:1": "delivered"}
    assert [call.agent for call in bench.letta.calls] == [agent_id(2)]
    assert await bench.ledger.field("m1:1", "attempt") == "0"
    # The next version comes, on the same Redis.
    monkeypatch.setattr("workers.turn.drain.Envelope", NextEnvelope)
    await bench.drain()
    await bench.finish()

    assert await bench.states() == {"m1:1": "delivered", "m2:1": "delivered"}
    assert await bench.ledger.client.hget(bench.ledger.keys.message("m1"), "envelope") == SURVEY


async def test_a_delivery_that_no_newer_worker_comes_for_is_a_dead_letter_in_the_end(bench: Bench) -> None:
    await bench.send("m1")
    await bench.ledger.client.hset(bench.ledger.keys.message("m1"), "envelope", SURVEY)
    await bench.drain()
    await bench.finish()
    bench.clock.advance(600)
    await bench.ledger.time.advance(seconds=600)
    await bench.drain()
    await bench.finish()

    assert await bench.states() == {"m1:1": "dead"}
    assert await bench.ledger.field("m1:1", "cause") == Cause.NEWER
    assert bench.letta.calls == []


@pytest.mark.parametrize("error", [RuntimeError("bug"), ConnectionError("away")])
@pytest.mark.parametrize("where", ["settle", "look"])
async def test_an_error_beside_the_turn_gives_the_slot_back_and_is_nobodys_surprise(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    """A7: a turn's task is total. What it could not settle is taken back when its lease runs out."""
    surprises: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: surprises.append(context))
    await bench.send("m1", 1)

    async def fail(*_: object, **__: object) -> str:
        bench.end_of_slice()
        raise error

    if where == "settle":
        monkeypatch.setattr(bench.workshop.hands.settler, "settle", fail)
    else:
        settle = bench.workshop.hands.settler.settle

        async def settle_late(*args: Any, **options: Any) -> str:
            result = await settle(*args, **options)
            bench.end_of_slice()
            return result

        monkeypatch.setattr(bench.workshop.hands.settler, "settle", settle_late)
        monkeypatch.setattr(bench.workshop.hands.sweeper, "look", fail)
    await asyncio.wait({bench.drain()}, timeout=10)
    await bench.finish()

    assert bench.slots.in_use == 0
    if bench.drains.pop().exception() is not None:
        assert where == "look"
    gc.collect()
    assert surprises == []


async def test_two_drains_of_one_tenant_share_and_double_nothing(bench: Bench) -> None:
    for number in range(40):
        await bench.send(f"m{number}", 1 + number % AGENTS)
    other = bench.workshop.slots(Pool.BULK, size=4)
    await asyncio.wait_for(asyncio.gather(bench.drain(), bench.drain(other), bench.drain()), 20)

    assert set((await bench.states()).values()) == {"delivered"}
    assert len({call.otid for call in bench.letta.calls}) == len(bench.letta.calls) == 40
    assert set(bench.letta.most_running.values()) == {1}
