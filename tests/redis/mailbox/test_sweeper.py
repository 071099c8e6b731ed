"""The sweeper finds every tenant with something to do, and bells that fail cost time, never work."""

import asyncio
from typing import Any

import pytest

from schemas.context import service_context
from tests.support.builders import arq_on, resources
from tests.support.ledger import Ledger, agent_id
from tests.support.time import FakeClock
from workers.broker import keys
from workers.broker.client import Client
from workers.broker.rules import Pool
from workers.mailbox.ring import Bells
from workers.mailbox.sweep import EVERYBODY_SECONDS, OVERFLOW_MS, Sweeper

QUEUE = keys.queue(Pool.STANDARD)


class Bench:
    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.client: Client = ledger.client
        self.clock = FakeClock()
        self.resources = resources(ledger.client, scripts=ledger.scripts, clock=self.clock)
        self.arq = arq_on(ledger.client)
        self.bells = Bells(self.arq, ledger.scripts, self.resources.log)

    def sweeper(self) -> Sweeper:
        return Sweeper(self.resources, self.bells)

    async def claim(self) -> str:
        claim: bytes | None = await self.client.hget("postroom:{acme}:rung", "standard")
        return claim.decode().partition("|")[0] if claim else ""

    async def queued(self) -> list[str]:
        return [member.decode() for member in await self.client.zrange(QUEUE, 0, -1)]


@pytest.fixture
def bench(ledger: Ledger) -> Bench:
    return Bench(ledger)


async def test_a_due_tenant_is_looked_at_by_one_sweeper(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = bench.sweeper(), bench.sweeper()
    for sweeper in (first, second):
        await sweeper.step()
    looked: list[str] = []

    async def look(tenant: str) -> None:
        looked.append(tenant)

    for sweeper in (first, second):
        monkeypatch.setattr(sweeper, "look", look)
    await bench.client.zadd(keys.agenda(), {"acme": 0})
    await asyncio.gather(first.step(), second.step())

    assert looked == ["acme"]


async def test_everybody_is_looked_at_when_the_agenda_is_lost(bench: Bench) -> None:
    sweeper = bench.sweeper()
    await sweeper.step()
    await bench.ledger.send("m1")
    await bench.client.delete(keys.agenda(), "postroom:{acme}:rung", QUEUE)
    await sweeper.step()
    assert await bench.queued() == []
    bench.clock.advance(EVERYBODY_SECONDS)
    await sweeper.step()

    assert await bench.queued() == [f"standard-{await bench.claim()}"]


async def test_a_claim_whose_job_arq_has_lost_is_handed_on(bench: Bench) -> None:
    await bench.ledger.send("m1", seed="lost")  # type: ignore[arg-type]
    assert await bench.claim() == "lost"
    await bench.sweeper().look("acme")
    assert await bench.claim() == "lost"
    await bench.ledger.time.advance(ms=OVERFLOW_MS + 1)
    await bench.sweeper().look("acme")

    assert await bench.claim() not in {"", "lost"}
    assert await bench.queued() == [f"standard-{await bench.claim()}"]


async def test_a_claim_whose_job_waits_its_turn_is_left_alone(bench: Bench) -> None:
    await bench.ledger.send("m1", seed="waits")  # type: ignore[arg-type]
    await bench.bells.ring(bench.ledger.context, [Pool.STANDARD], "waits")
    await bench.ledger.time.advance(ms=OVERFLOW_MS + 1)
    for _ in range(3):
        await bench.sweeper().look("acme")

    assert await bench.claim() == "waits"
    assert await bench.queued() == ["standard-waits"]


async def test_one_tenant_that_cannot_be_swept_keeps_nobody_else_from_it(bench: Bench) -> None:
    await bench.ledger.send("m1")
    await bench.client.delete("postroom:{acme}:rung")
    for tenant in ("aaa", "zzz"):
        await bench.client.sadd(keys.tenants(), tenant)
        await bench.client.set(f"postroom:{{{tenant}}}:later", "a string")
    await bench.client.sadd(keys.tenants(), b"\xff", "Not One")
    sweeper = bench.sweeper()
    await sweeper.step()

    assert await bench.queued() == [f"standard-{await bench.claim()}"]
    await bench.client.delete("postroom:{aaa}:later", "postroom:{zzz}:later")


async def test_one_job_for_each_claim_however_often_it_is_rung(bench: Bench) -> None:
    for _ in range(5):
        await bench.bells.ring(bench.ledger.context, [Pool.STANDARD, Pool.STANDARD], "same")

    assert await bench.queued() == ["standard-same"]


async def test_a_bell_that_cannot_ring_raises_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr(bench.arq, "enqueue_job", away)
    await bench.bells.ring(bench.ledger.context, [Pool.STANDARD], "s")

    assert await bench.queued() == []


async def test_a_note_moves_a_look_earlier_and_never_later(bench: Bench) -> None:
    context = service_context("acme", "test")
    await bench.client.delete(keys.agenda())
    for at, expected in ((0, None), (500, 500), (900, 500), (300, 300)):
        await bench.bells.note(context, at)
        assert await bench.client.zscore(keys.agenda(), "acme") == expected


async def test_what_a_dead_worker_held_is_free_again(bench: Bench) -> None:
    await bench.ledger.send("m1", agent_id(1))
    await bench.ledger.take(1)
    await bench.ledger.time.advance(seconds=15.1)
    await bench.sweeper().look("acme")

    assert await bench.ledger.state("m1:1") == "waiting"
    assert await bench.queued() == [f"standard-{await bench.claim()}"]
