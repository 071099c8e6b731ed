"""The dispatcher on every Redis: order, quarantine, and who owns which stream, whatever goes away meanwhile."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import fakeredis
import pytest

from schemas.address import StreamAddress
from schemas.context import Operator, service_context
from schemas.delivery import Cause
from schemas.tenant import Limits
from tests.support.builders import agent, arq_on, resources
from tests.support.fake_letta_port import FakeLetta
from tests.support.ledger import agent_id
from tests.support.waiting import until
from workers.broker import keys
from workers.broker.client import Client
from workers.broker.scripts import Scripts
from workers.bus.replies import read_replies
from workers.directory.agents import Directory
from workers.directory.tenants import Tenants
from workers.dispatch.loop import Dispatcher
from workers.dispatch.ownership import Ownership
from workers.mailbox.ring import Bells
from workers.tasks import end

OPERATOR = Operator("test")


class Office:
    """One dispatcher process."""

    def __init__(self, client: Client, letta: FakeLetta, name: str, *, version: str = "", **settings: Any) -> None:
        self.resources = resources(client, process_id=name, **settings)
        self.ownership = Ownership(self.resources, own_version=version)
        bells = Bells(arq_on(client), self.resources.scripts, self.resources.log)
        directory = Directory(client, letta, self.resources.clock)
        self.dispatcher = Dispatcher(self.resources, self.ownership, directory, bells)

    async def start(self) -> None:
        await self.ownership.start()
        await self.dispatcher.start()

    async def stop(self) -> None:
        await self.dispatcher.stop(5)
        await self.ownership.stop(5)

    async def die(self) -> None:
        """Ends as a killed process does: nothing is given up."""
        tasks = [self.dispatcher._task, self.ownership._task]
        self.ownership.finish = _nothing  # type: ignore[method-assign]
        await end(*(task for task in tasks if task is not None))


async def _nothing() -> None: ...


class Bench:
    def __init__(self, client: Client) -> None:
        self.client = client
        self.letta = FakeLetta(
            roster=[agent(number, tenant=tenant) for tenant in ("acme", "globex") for number in range(1, 4)]
        )
        self.offices: list[Office] = []

    def office(self, **options: Any) -> Office:
        one = Office(self.client, self.letta, f"dispatcher-{len(self.offices) + 1}", **options)
        self.offices.append(one)
        return one

    async def register(self, *tenants: str) -> None:
        for tenant in tenants:
            await Tenants(self.client).create(OPERATOR, tenant, Limits(), now_ms=1)

    async def put(self, raw: bytes | dict[str, Any], tenant: str = "acme") -> str:
        if isinstance(raw, dict):
            raw = json.dumps({"to": {"agent": "agent-1"}, "content": "x", **raw}).encode()
        entry: bytes = await self.client.xadd(f"postroom:{{{tenant}}}:tasks", {"message": raw})
        return entry.decode()

    async def mailbox(self, number: int = 1, tenant: str = "acme") -> list[str]:
        found = await self.client.zrange(f"postroom:{{{tenant}}}:mailbox:{agent_id(number)}", 0, -1)
        return [member.decode().removesuffix(":1") for member in found]

    async def left(self, tenant: str = "acme") -> int:
        count: int = await self.client.xlen(f"postroom:{{{tenant}}}:tasks")
        return count

    async def is_empty(self, tenant: str = "acme") -> bool:
        return await self.left(tenant) == 0

    async def letters(self, tenant: str = "acme") -> list[tuple[bytes, str]]:
        found = await self.client.xrange(f"postroom:{{{tenant}}}:dead")
        return [(fields[b"raw"], fields[b"cause"].decode()) for _, fields in found]


@pytest.fixture
async def bench(client: Client) -> AsyncIterator[Bench]:
    one = Bench(client)
    yield one
    for office in one.offices:
        await office.stop()


async def test_order_on_the_stream_is_order_in_the_mailbox(bench: Bench) -> None:
    await bench.register("acme")
    for number in range(300):
        await bench.put({"id": f"m{number}", "to": {"agent": f"agent-{1 + number % 2}"}})
    await bench.office().start()
    await until(bench.is_empty)

    assert await bench.mailbox(1) == [f"m{number}" for number in range(0, 300, 2)]
    assert await bench.mailbox(2) == [f"m{number}" for number in range(1, 300, 2)]


async def test_bad_entries_are_kept_with_their_bytes_and_hold_up_nothing(bench: Bench) -> None:
    await bench.register("acme")
    bad = [
        b"\xff\xfe",
        b"{",
        b"[" * 10_000,
        b'{"\\ud800":1,"\\ud800":2}',
        b'{"to":{"agent":"agent-1"},"content":"\\ud800"}',
        b'{"tenant":"globex","to":{"agent":"agent-1"},"content":"x"}',
        b'{"tenant":"acme","tenant":"acme"}',
        b'{"to":{"agent":"agent-1"},"content":1,"id":"named"}',
        b"\x00",
        b"",
    ]
    for number, raw in enumerate(bad):
        await bench.put(raw)
        await bench.put({"id": f"m{number}"})
    await bench.client.xadd("postroom:{acme}:tasks", {b"\xff": b"\xfe"})
    await bench.put({"id": "last"})
    await bench.office().start()
    await until(bench.is_empty)

    assert await bench.mailbox() == [*(f"m{number}" for number in range(len(bad))), "last"]
    letters = await bench.letters()
    assert sorted(raw for raw, _ in letters) == sorted([*bad, b"\xff \xfe"])
    assert {cause for raw, cause in letters if b"tenant" in raw} == {"tenant_mismatch"}
    assert {cause for raw, cause in letters if b"tenant" not in raw} == {"invalid"}
    assert await bench.client.hget("postroom:{acme}:message:named", "state") == b"refused"


async def test_a_bad_entry_under_anothers_id_leaves_that_message_alone(bench: Bench) -> None:
    await bench.register("acme")
    await bench.put({"id": "m1", "content": "mine"})
    await bench.put({"id": "m1", "content": 5})
    await bench.put({"id": "m1", "content": "other"})
    await bench.put({"id": "m1", "content": "mine"})
    await bench.office().start()
    await until(bench.is_empty)

    assert await bench.mailbox() == ["m1"]
    assert await bench.client.hget("postroom:{acme}:message:m1", "state") == b"open"
    assert sorted(cause for _, cause in await bench.letters()) == ["conflict", "invalid"]


async def test_unknown_and_ambiguous_names_are_refused_and_a_foreign_agent_is_unknown(bench: Bench) -> None:
    await bench.register("acme", "globex")
    bench.letta.roster = [agent(1), agent(2, "twin"), agent(3, "twin"), agent(9, "theirs", tenant="globex")]
    for address in ("nobody", "twin", "theirs", agent_id(9)):
        await bench.put({"to": {"agent": address}})
    await bench.office().start()
    await until(bench.is_empty)

    causes = [cause for _, cause in await bench.letters()]
    assert sorted(causes) == ["ambiguous_agent", "unknown_agent", "unknown_agent", "unknown_agent"]


async def test_whoever_waits_for_a_reply_learns_that_nothing_will_come(bench: Bench) -> None:
    """Of what never came into a mailbox, too: an unknown agent, and an id that is another message's."""
    await bench.register("acme")
    place = {"reply_to": {"stream": "crm"}}
    await bench.put({"id": "m1", **place})
    await bench.put({"id": "m2", "to": {"agent": "nobody"}, "correlation_id": "t7", **place})
    conflict = await bench.put({"id": "m1", "content": "other", **place})
    await bench.office().start()
    await until(bench.is_empty)

    found = await read_replies(service_context("acme", "test"), bench.client, StreamAddress(stream="crm"), limit=9)
    told = {one.reply.id: (one.reply.cause, one.reply.correlation_id) for one in found}
    assert told == {"m2": (Cause.UNKNOWN_AGENT, "t7"), f"x{conflict}": (Cause.CONFLICT, "m1")}
    answers = await bench.client.hget("postroom:{acme}:message:m1", "answers")
    assert answers == b"stream|crm|m1"


async def test_a_letta_that_is_away_leaves_entries_where_they_are_in_their_order(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.dispatch.stream.AWAY_SECONDS", 0.05)
    await bench.register("acme")
    bench.letta.away = True
    for number in range(5):
        await bench.put({"id": f"m{number}"})
    await bench.office().start()
    await until(lambda: bench.letta.listings >= 2)
    assert await bench.left() == 5
    assert await bench.letters() == []
    bench.letta.away = False
    await until(bench.is_empty)

    assert await bench.mailbox() == [f"m{number}" for number in range(5)]


async def test_a_suspended_tenant_is_not_read_and_goes_on_when_it_is_resumed(bench: Bench) -> None:
    await bench.register("acme", "globex")
    await Tenants(bench.client).suspend(OPERATOR, "acme", suspended=True)
    await bench.put({"id": "m1"})
    await bench.put({"id": "g1"}, "globex")
    await bench.office().start()
    await until(lambda: bench.is_empty("globex"))
    assert await bench.left() == 1
    await Tenants(bench.client).suspend(OPERATOR, "acme", suspended=False)
    await until(bench.is_empty, within=3)

    assert await bench.mailbox() == ["m1"]


async def test_the_stream_of_an_unregistered_tenant_is_never_read(bench: Bench) -> None:
    await bench.register("acme")
    await bench.put({"id": "g1"}, "globex")
    await bench.put(b"\xff", "globex")
    await bench.put({"id": "m1"})
    await bench.office().start()
    await until(bench.is_empty)
    assert await bench.left("globex") == 2
    assert await bench.client.keys("postroom:{globex}:*") == [b"postroom:{globex}:tasks"]
    await bench.register("globex")

    await until(lambda: bench.is_empty("globex"), within=3)


async def test_a_tenant_registered_between_two_looks_is_seen_at_once(bench: Bench) -> None:
    """The control stream is read on from where it was when the dispatcher began, not from whenever it reads."""
    office = bench.office()
    await office.dispatcher.prepare()
    await bench.register("acme")
    await bench.put({"id": "m1"})
    for _ in range(2):
        await asyncio.wait_for(office.dispatcher.step(), 5)
    await until(bench.is_empty, within=1)
    await office.dispatcher.finish()

    assert await bench.mailbox() == ["m1"]


async def test_a_slow_tenant_does_not_hold_up_the_others(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.register("acme", "globex")
    gate = asyncio.Event()
    dispatch_all = Scripts.dispatch_all

    async def slow(self: Scripts, context: Any, **options: Any) -> Any:
        if context.tenant == "acme":
            await gate.wait()
        return await dispatch_all(self, context, **options)

    monkeypatch.setattr(Scripts, "dispatch_all", slow)
    await bench.put({"id": "m1"})
    await bench.office().start()
    for number in range(20):
        await bench.put({"id": f"g{number}"}, "globex")
        await until(lambda: bench.is_empty("globex"), within=3)
    assert await bench.left() == 1
    gate.set()
    await until(bench.is_empty)


@pytest.mark.parametrize("seed", range(2))
async def test_a_dispatcher_killed_at_any_point_loses_and_doubles_nothing(bench: Bench, seed: int) -> None:
    chance = random.Random(seed)
    await bench.register("acme")
    sent = 0
    for _ in range(6):
        for _ in range(20):
            await bench.put({"id": f"m{sent}"} if sent % 7 else {"id": f"m{sent}", "content": ""})
            sent += 1
        office = bench.office()
        # The lease of the one before runs out; here somebody takes it away.
        await bench.client.delete("postroom:{acme}:dispatcher")
        await office.start()
        for _ in range(chance.randrange(60)):
            await asyncio.sleep(0)
        await office.die()
    await bench.client.delete("postroom:{acme}:dispatcher")
    await bench.office().start()
    await until(bench.is_empty)

    assert await bench.mailbox() == [f"m{number}" for number in range(sent) if number % 7]
    assert len(await bench.letters()) == len(range(0, sent, 7))
    assert await bench.client.hget("postroom:{acme}:counters", "waiting") == str(len(await bench.mailbox())).encode()


async def test_dispatchers_share_the_streams_and_take_over_from_one_that_stops(bench: Bench) -> None:
    names = [f"t{number}" for number in range(9)]
    await bench.register(*names)
    offices = [bench.office() for _ in range(3)]

    async def settle(*living: Office) -> list[int]:
        for _ in range(3):
            for office in living:
                await office.ownership.refresh()
        owned = [set(office.ownership.owned) for office in living]
        assert set().union(*owned) == set(names)
        assert sum(len(one) for one in owned) == len(names)
        return sorted(len(one) for one in owned)

    assert await settle(offices[0]) == [9]
    assert await settle(*offices[:2]) == [4, 5]
    assert await settle(*offices) == [3, 3, 3]
    await offices[1].ownership.finish()
    assert await settle(offices[0], offices[2]) == [4, 5]


async def test_a_stream_is_another_dispatchers_until_its_lease_runs_out(bench: Bench) -> None:
    await bench.register("acme")
    first, second = bench.office(), bench.office()
    await first.ownership.refresh()
    await second.ownership.refresh()
    assert (first.ownership.owned, second.ownership.owned) == (["acme"], [])
    await bench.client.delete("postroom:{acme}:dispatcher")
    await second.ownership.refresh()
    await first.ownership.refresh()

    assert (first.ownership.owned, second.ownership.owned) == ([], ["acme"])


@pytest.mark.parametrize("odd", [b"Acme Corp", b"\xff\xfe", b"", b"{acme}", b"a" * 300])
async def test_a_name_that_is_no_tenant_stops_no_dispatcher(bench: Bench, odd: bytes) -> None:
    """Only a hand in Redis can register it; one write must not be a full stop (as HAZARDS.md A11)."""
    await bench.register("acme")
    await bench.client.sadd(keys.tenants(), odd)
    await bench.put({"id": "m1"})
    await bench.office().start()
    await until(bench.is_empty, within=3)

    assert await bench.mailbox() == ["m1"]


async def test_a_dispatcher_that_is_to_live_for_ever_has_no_share(bench: Bench) -> None:
    """Found by tests/fuzz: by a hand, or a clock that jumped, half of the streams were read by nobody."""
    await bench.register("acme", "globex", "initech")
    await bench.client.zadd(keys.dispatchers(), {b"\xff": 4e9, "for ever": float("inf")})
    office = bench.office()
    await office.ownership.refresh()

    assert office.ownership.owned == ["acme", "globex", "initech"]


async def test_a_stream_that_is_none_stops_no_other_tenant(bench: Bench) -> None:
    """Found by tests/fuzz: Redis refuses to read all where the key of one is of another type."""
    if isinstance(bench.client, fakeredis.FakeAsyncRedis):
        pytest.skip("fakeredis does not look at the type")
    await bench.register("acme", "globex")
    await bench.client.set("postroom:{globex}:tasks", "odd")
    await bench.put({"id": "m1"})
    await bench.office().start()
    await until(bench.is_empty, within=5)
    await bench.put({"id": "m2"})
    await until(bench.is_empty, within=5)

    assert await bench.mailbox() == ["m1", "m2"]


@pytest.mark.parametrize("name", ["dispatcher", "tenant"])
async def test_a_tenant_whose_stream_cannot_be_owned_stops_no_other(bench: Bench, name: str) -> None:
    """Found by tests/fuzz: the first that Redis refused ended the look at all of them."""
    await bench.register("acme", "globex")
    await bench.client.delete(f"postroom:{{acme}}:{name}")
    await bench.client.sadd(f"postroom:{{acme}}:{name}", "odd")
    office = bench.office()
    await office.ownership.refresh()
    await office.ownership.refresh()

    assert office.ownership.owned == ["globex"]
