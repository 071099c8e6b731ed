"""What each version left behind in Redis is read and finished by this one: tests/fixtures, kept for good."""

import json
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fakeredis
import pytest

from schemas.address import QueueAddress, StreamAddress
from schemas.context import Operator
from schemas.delivery import State
from schemas.envelope import Envelope
from schemas.receipt import Receipt
from tests.support.builders import arq_on, resources, settings
from tests.support.fixture import dump, folders, restore
from tests.support.fixture_ledger import ROSTER, make
from tests.support.ledger import Ledger, agent_id
from tests.support.post_office import PostOffice
from tests.support.time import ScriptTime
from workers.broker import keys
from workers.broker.client import Client
from workers.broker.rules import Pool
from workers.bus.export import Export
from workers.bus.letters import read_letter_entries
from workers.bus.listing import read_message
from workers.bus.parking import last_ends, parked, waiting
from workers.bus.receipts import read_receipt
from workers.bus.replies import read_replies
from workers.bus.search import Wanted, search
from workers.directory.teams import Teams
from workers.directory.tenants import Tenants
from workers.dispatch.gather import Gatherer
from workers.mailbox.audit import judge
from workers.mailbox.ledgered import read
from workers.mailbox.ring import Bells
from workers.turn.settlement import Ending

OPERATOR = Operator("test")
ROUNDS = 60


@dataclass
class Left:
    """A version's ledger, restored, with the time at which it was left."""

    ledger: Ledger
    office: PostOffice
    receipts: dict[str, Any]
    document: dict[str, Any]

    @property
    def client(self) -> Client:
        return self.ledger.client

    async def problems(self) -> list[str]:
        found = judge(await read(self.client, self.ledger.context), self.ledger.time.now_us, self.ledger.rules)
        return [one.sentence for one in found]


@pytest.fixture(params=folders(), ids=lambda folder: folder.name)
async def left(request: pytest.FixtureRequest, client: Client) -> Left:
    folder: Path = request.param
    document = json.loads((folder / "keys.json").read_text())
    await restore(client, document["keys"])
    time = ScriptTime(client)
    await time.start()
    await time.advance(ms=(document["now_us"] - time.now_us) / 1000)
    ledger = Ledger(client, time)
    # The dispatcher that left it is gone; its lease has run out or will.
    await client.delete(ledger.keys.dispatcher)
    assert await ledger.scripts.hold_stream(ledger.context, owner="dispatcher-1", lease_ms=600_000)
    receipts = json.loads((folder / "receipts.json").read_text())
    return Left(ledger, PostOffice(ledger, ROSTER, Ending(settings(), random.Random(1))), receipts, document)


def as_told(receipt: Any) -> Any:
    """Without what depends on when it is read."""
    told = {name: value for name, value in receipt.items() if name not in {"cause", "deliveries"}}
    told["gathered"] = sorted(receipt["gathered"] or ())
    if State(receipt["state"]).is_final:
        told["cause"] = receipt["cause"]
    kept = {"cause", "due_at_ms"}
    told["deliveries"] = [
        {name: value for name, value in one.items() if name not in kept or State(one["state"]).is_final}
        for one in receipt["deliveries"]
    ]
    return told


async def test_every_message_tells_the_same_as_then(left: Left) -> None:
    context, client = left.ledger.context, left.client
    assert await left.problems() == []
    for id_, then in left.receipts.items():
        now = (await read_receipt(context, client, id_)).model_dump(mode="json")
        # This version may tell more than the one that left it.
        told, was = as_told(now), as_told(then)
        deliveries = zip(told.pop("deliveries"), was.pop("deliveries"), strict=True)
        for one, other in [*deliveries, (told, was)]:
            assert {name: one[name] for name in other} == other


async def test_every_way_to_read_reads_it(left: Left) -> None:
    context, client = left.ledger.context, left.client
    found = await search(context, client, Wanted(), limit=1_000)
    assert {one.receipt.message_id for one in found} == set(left.receipts)
    full = (await read_message(context, client, "full")).envelope
    assert full is not None
    assert (full.kind, full.model_extra) == ("command", {"colour": {"unknown": ["field"]}})
    letters = [one async for one in read_letter_entries(context, client)]
    assert {b"\xff\xfe is no UTF-8"} == {one.raw for one in letters if one.raw and one.raw.startswith(b"\xff")}
    on_stream = await read_replies(context, client, StreamAddress(stream="crm"), limit=100)
    in_queue = await read_replies(context, client, QueueAddress(queue="desk-queue"), limit=100)
    assert {"to-a-stream:1", "gathered", "agent-gone:1"} <= {one.reply.id for one in on_stream}
    assert {one.reply.id for one in in_queue} == {"to-a-queue:1", "nobody"}
    assert len(await parked(context, client)) == 5
    assert len(await waiting(context, client, agent_id(27), limit=10)) == 4
    assert await last_ends(context, client, agent_id(25), limit=9)
    tenant = await Tenants(client).show(OPERATOR, "acme")
    counts = Counter([line.kind async for line in Export(context, client, content=True).lines(tenant, at_ms=1)])
    assert counts["message"] == len(left.receipts)
    assert counts["letter"] == len(letters)
    assert (counts["team"], counts["agent"], counts["entry"]) == (1, len(ROSTER), 3)


async def test_everything_comes_to_its_end(left: Left) -> None:
    """Dispatched, taken, delivered, gathered, resumed, unparked, redriven: nothing is left over, and nothing twice."""
    ledger, scripts = left.ledger, left.ledger.scripts
    delivered: Counter[str] = Counter()
    running = {id_ for id_, one in left.receipts.items() if one["state"] == "running"}
    await _unblock(left)
    for agent in await parked(ledger.context, left.client):
        await scripts.unpark(ledger.context, agent=agent)
    await scripts.resume(ledger.context, message_id="bulk-paused")
    await _finish(left, delivered)
    letters = [one async for one in read_letter_entries(ledger.context, left.client)]
    for letter in letters:
        answer = await scripts.redrive(ledger.context, entry_id=letter.entry_id, ttl_ms=None)
        assert answer.status == "redriven", letter
    await _finish(left, delivered)

    assert await left.problems() == []
    receipts = await _receipts(left)
    assert {id_ for id_, one in receipts.items() if not one.is_final} == set()
    assert set(delivered.values()) == {1}
    assert {f"{id_}:1" for id_ in running} <= set(delivered)
    before = {each["id"] for one in left.receipts.values() for each in one["deliveries"] if each["reply"]}
    assert before.isdisjoint(delivered)
    counters = await ledger.counters()
    assert (counters["waiting"], counters["running"], counters["bytes"]) == (0, 0, 0)
    assert receipts["gathering"].gathered_at_ms is not None


async def _unblock(left: Left) -> None:
    """The workers that held something are gone: their leases run out."""
    await left.ledger.time.advance(seconds=16)
    await left.ledger.scripts.sweep(left.ledger.context, seed="s", overflow_ms=1_000)


async def _finish(left: Left, delivered: Counter[str]) -> None:
    ledger, office = left.ledger, left.office
    one = resources(left.client, scripts=ledger.scripts)
    gatherer = Gatherer(one, Bells(arq_on(left.client), ledger.scripts, one.log))
    for _ in range(ROUNDS):
        await office.dispatch()
        swept = await ledger.scripts.sweep(ledger.context, seed="s", overflow_ms=1_000)
        for message_id in swept.gathers:
            await gatherer.close(ledger.context, message_id)
        for taken in await office.take(Pool.STANDARD):
            Envelope.model_validate_json(taken.envelope)
            assert await office.deliver(taken, f"turn of {taken.id}") == "settled"
            delivered[taken.id] += 1
        await ledger.time.advance(seconds=61)
    # What is not to begin before 2099 is taken back.
    await ledger.scripts.cancel(ledger.context, message_id="not-before")


async def _receipts(left: Left) -> dict[str, Receipt]:
    ids = [member.decode() for member in await left.client.zrange(left.ledger.keys.messages, 0, -1)]
    return {id_: await read_receipt(left.ledger.context, left.client, id_) for id_ in ids}


async def test_the_other_tenants_are_as_they_were(left: Left) -> None:
    tenants = Tenants(left.client)

    assert await tenants.all_ids(OPERATOR) == ["acme", "globex"]
    assert (await tenants.show(OPERATOR, "globex")).suspended
    assert await left.client.zscore(keys.leaving(), "initech") is not None
    teams = await Teams(left.client).all(left.ledger.context)
    assert teams["desk"].tags == ("desk:support",)


async def test_fields_of_a_newer_version_survive_every_step(left: Left) -> None:
    """In the tenant's record, in messages and deliveries: read past, and kept."""
    names = left.ledger.keys
    records = [key for key in left.document["keys"] if ":message:" in key or ":delivery:" in key]
    for key in (*records, names.tenant):
        await left.client.hset(key, "of_the_next", "kept")
    assert await left.problems() == []
    await Tenants(left.client).show(OPERATOR, "acme")
    delivered: Counter[str] = Counter()
    await _unblock(left)
    await _finish(left, delivered)

    assert delivered
    assert await left.problems() == []
    for key in (*records, names.tenant):
        assert await left.client.hget(key, "of_the_next") == b"kept", key


async def test_a_dump_is_what_it_was_made_of(left: Left, client: Client) -> None:
    await client.flushall()
    await restore(client, left.document["keys"])
    again = await dump(client)

    for key, one in left.document["keys"].items():
        assert {**again[key], "px": 0} == {**one, "px": 0}


async def test_every_structure_of_this_version_can_be_written_out() -> None:
    """`make` asserts that each name of the table is there: a new one is added to it."""
    fake = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
    now_us, receipts = await make(fake)
    await fake.aclose()

    assert now_us
    assert {State(one["state"]) for one in receipts.values()} == set(State)
