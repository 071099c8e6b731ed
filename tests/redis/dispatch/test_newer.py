"""Two versions side by side: what the older one cannot read is left for the newer one, and holds up nobody.

The next version is this one with more kinds of messages and a second version of its schema.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar
from typing import Any, Literal

import pytest

from schemas.context import Context, service_context
from schemas.delivery import Cause, State
from schemas.envelope import Envelope
from schemas.ids import message_id_of_entry
from tests.redis.dispatch.test_dispatcher import Bench, Office
from tests.support.builders import arq_on, resources
from tests.support.time import FakeClock
from tests.support.waiting import until
from workers.broker import keys
from workers.broker.client import Client
from workers.bus.letters import read_letters
from workers.bus.receipts import read_receipt
from workers.dispatch import left, stream
from workers.dispatch.gather import Gatherer
from workers.dispatch.ownership import Ownership
from workers.dispatch.route import Entry, Newer, Refused, read
from workers.mailbox.audit import audit
from workers.mailbox.ring import Bells
from workers.mailbox.sweep import Sweeper

ACME = service_context("acme", "test")
SURVEY = {"kind": "survey", "hints": {"by": "the next version"}}
IS_NEXT: ContextVar[bool] = ContextVar("is_next", default=False)
"""Whether what runs is of the next version: each office's tasks have their own."""


class NextEnvelope(Envelope):
    schema_version: Literal[1, 2] = 1  # type: ignore[assignment]
    kind: str = "request"  # type: ignore[assignment]


def next_read(
    context: Context, entry_id: str, fields: Mapping[bytes, bytes], *, seen_at: float
) -> Entry | Refused | Newer:
    if not IS_NEXT.get():
        return read(context, entry_id, fields, seen_at=seen_at)
    envelope = NextEnvelope.model_validate_json(fields[b"message"])
    return Entry(entry_id, envelope.id or message_id_of_entry(entry_id), envelope, seen_at)


class Two(Bench):
    """Offices of both versions."""

    async def start(self, *, is_next: bool, **settings: Any) -> Office:
        office = self.office(version="0.2.0" if is_next else "0.1.0", **settings)
        name = office.resources.process_id
        await self.client.set(keys.process(name), json.dumps({"version": "0.2.0" if is_next else "0.1.0"}))
        token = IS_NEXT.set(is_next)
        await office.start()
        IS_NEXT.reset(token)
        return office

    async def cause(self, message_id: str) -> Cause | None:
        return (await read_receipt(ACME, self.client, message_id)).cause


@pytest.fixture
async def two(client: Client, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Two]:
    monkeypatch.setattr(stream, "read", next_read)
    monkeypatch.setattr(Ownership, "every_seconds", 0.05)
    one = Two(client)
    await one.register("acme")
    yield one
    for office in one.offices:
        await office.stop()


async def test_what_is_of_a_newer_version_waits_and_holds_up_nobody(two: Two) -> None:
    await two.start(is_next=False)
    for number in range(40):
        await two.put({"id": f"m{number}", **(SURVEY if number % 4 == 0 else {})})
    await two.put({"id": "v2", "schema_version": 2})
    good = [f"m{number}" for number in range(40) if number % 4]
    await until(lambda: _is(two.mailbox(), good))
    await two.put({"id": "last"})
    await until(lambda: _is(two.mailbox(), [*good, "last"]))

    assert await two.left() == 11
    assert await two.letters() == []


async def test_a_newer_dispatcher_takes_over_what_an_older_one_left(two: Two) -> None:
    """Both run on: the older one keeps the streams on which it can read everything."""
    older = await two.start(is_next=False)
    await two.register("globex")
    await until(lambda: len(older.ownership.owned) == 2)
    newer = await two.start(is_next=True)
    await until(lambda: len(older.ownership.owned) == len(newer.ownership.owned) == 1)
    odd, even = older.ownership.owned[0], newer.ownership.owned[0]
    for tenant in (odd, even):
        await two.put({"id": "m1"}, tenant)
        await two.put({"id": "m2", **SURVEY}, tenant)
        await two.put({"id": "m3", "schema_version": 2}, tenant)
    for tenant in (odd, even):
        await until(lambda tenant=tenant: two.is_empty(tenant))  # type: ignore[misc]

    for tenant in (odd, even):
        assert sorted(await two.mailbox(1, tenant)) == ["m1", "m2", "m3"]
        assert await two.letters(tenant) == []
    stored = json.loads(await two.client.hget(keys.of(service_context(odd, "test")).message("m2"), "envelope"))
    assert (stored["kind"], stored["hints"]) == ("survey", SURVEY["hints"])


async def test_without_a_newer_dispatcher_it_is_refused_in_the_end_and_can_be_redriven(two: Two) -> None:
    older = await two.start(is_next=False, newer_wait_seconds=0.2)
    await two.put({"id": "m1", **SURVEY})
    await two.put({"id": "m2", "content": ""})
    await until(two.is_empty)
    letters = {one.letter.message_id: one.letter async for one in read_letters(ACME, two.client)}

    assert (letters["m1"].cause, letters["m2"].cause) == (Cause.NEWER, Cause.INVALID)
    assert "kind: " in letters["m1"].detail
    assert "none took it within 0.2 s" in letters["m1"].detail
    await older.stop()
    newer = await two.start(is_next=True)
    status = (await newer.resources.scripts.redrive(ACME, entry_id=letters["m1"].entry_id, ttl_ms=None)).status
    assert status == "redriven"
    await until(lambda: _is(two.mailbox(), ["m1"]))


async def test_with_no_time_to_wait_it_is_refused_at_once(two: Two) -> None:
    await two.start(is_next=False, newer_wait_seconds=0)
    await two.put({"id": "m1", **SURVEY})
    await until(two.is_empty)

    assert await two.cause("m1") is Cause.NEWER


async def test_what_was_left_survives_the_dispatcher_that_left_it(two: Two) -> None:
    older = await two.start(is_next=False)
    await two.put({"id": "m1", **SURVEY})
    await two.put({"id": "m2"})
    await until(lambda: _is(two.mailbox(), ["m2"]))
    await older.stop()
    await two.start(is_next=True)
    await until(two.is_empty)

    assert await two.mailbox() == ["m2", "m1"]


async def test_more_than_a_stream_may_leave_is_refused_and_good_entries_go_on(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(left, "MOST", 3)
    await two.start(is_next=False)
    for number in range(8):
        await two.put({"id": f"s{number}", **SURVEY})
    await two.put({"id": "m1"})
    await until(lambda: _is(two.mailbox(), ["m1"]))

    await until(lambda: _is(two.left(), 3))
    assert len(await two.letters()) == 5


async def test_dispatchers_of_one_version_do_not_hand_such_entries_to_and_fro(two: Two) -> None:
    first = await two.start(is_next=False)
    await until(lambda: first.ownership.owned)
    await two.start(is_next=False)
    await two.put({"id": "m1", **SURVEY})
    for _ in range(5):
        await asyncio.sleep(0.05)
        assert first.ownership.owned == ["acme"]


async def test_an_older_dispatcher_reads_what_a_newer_one_wrote_into_the_records(two: Two) -> None:
    """More fields, more causes: kept, told as they stand, and in nobody's way."""
    await two.start(is_next=False)
    await two.put({"id": "m1"})
    await until(two.is_empty)
    names = keys.of(ACME)
    await two.client.hset(names.message("m1"), mapping={"quota": "7", "ledger": "0.2"})
    await two.client.hset(names.delivery("m1:1"), mapping={"region": "eu", "cause": "over_budget"})
    history = await two.client.hget(names.delivery("m1:1"), "history")
    await two.client.hset(names.delivery("m1:1"), "history", history + b"1|waiting|over_budget\n")
    receipt = await read_receipt(ACME, two.client, "m1")

    assert receipt.state is State.WAITING
    assert receipt.deliveries[0].history[-1].cause == "over_budget"
    assert await audit(ACME, two.client, FakeClock()) == []


async def test_a_gathering_of_a_newer_version_is_left_for_a_newer_sweeper(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    await two.start(is_next=False)
    await two.put({"id": "m1", "to": {"agent": "agent-1"}})
    await until(two.is_empty)
    names = keys.of(ACME)
    await two.client.hset(names.message("m1"), "envelope", json.dumps({"to": {"agent": "x"}, "content": "x", **SURVEY}))
    await two.client.zadd(names.root + keys.TENANT_NAMES["gathers"].suffix, {"m1": 1})
    office = resources(two.client)
    bells = Bells(arq_on(two.client), office.scripts, office.log)
    await two.client.delete(keys.agenda())
    await Sweeper(office, bells, Gatherer(office, bells).close).look("acme")
    assert await two.client.hget(names.message("m1"), "gathered_at") is None
    # Not at once again, and again, and again.
    assert await two.client.zscore(keys.agenda(), "acme") is None
    monkeypatch.setattr("workers.dispatch.gather.Envelope", NextEnvelope)
    await Sweeper(office, bells, Gatherer(office, bells).close).look("acme")

    assert await two.client.hget(names.message("m1"), "gathered_at")


async def _is(found: Any, wanted: object) -> bool:
    return bool(await found == wanted)
