"""What a producer is told, on every Redis: accepted once, honest receipts, and nobody else's business."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from schemas.address import AgentAddress, QueueAddress, ReplyTo, StreamAddress, TeamAddress, in_short
from schemas.context import Context, Role
from schemas.delivery import Cause, State
from tests.conftest import REAL
from tests.support.builders import resources
from tests.support.ledger import Ledger, agent_id
from tests.support.redis_server import RedisServer
from workers.broker import keys
from workers.broker.client import Client, close, connect
from workers.bus import door
from workers.bus.admission import Admission
from workers.bus.client import TenantClient
from workers.bus.publish import Publisher
from workers.bus.replies import read_replies
from workers.errors import (
    ConflictError,
    DeadlineError,
    NotAcceptedError,
    NotFoundError,
    OverloadedError,
    RefusedError,
    SuspendedError,
    TooLateError,
)


class NoAdmission(Admission):
    """fakeredis has no INFO."""

    async def check(self, context: Context) -> None: ...


def client_of(tenant: str, client: Client, ledger: Ledger | None = None) -> TenantClient:
    parts = resources(client, scripts=ledger.scripts if ledger else None)
    one = TenantClient(Context(tenant=tenant, principal="tester", roles=frozenset({Role.PRODUCER})), parts)
    one._publisher = Publisher(parts.scripts, NoAdmission(client, parts.clock))
    return one


@pytest.fixture
async def acme(ledger: Ledger) -> AsyncIterator[TenantClient]:
    one = client_of("acme", ledger.client, ledger)
    yield one
    await one.close()


async def counted(ledger: Ledger) -> int:
    length: int = await ledger.client.xlen(ledger.keys.tasks)
    return length


async def test_accepted_means_on_the_stream_under_the_id_that_is_told(acme: TenantClient, ledger: Ledger) -> None:
    receipt = await acme.send("researcher", "hello", expires_in=60)

    assert (receipt.state, receipt.duplicate) == (State.ACCEPTED, False)
    assert receipt.expires_at_ms == receipt.accepted_at_ms + 60_000
    ((entry, fields),) = await ledger.client.xrange(ledger.keys.tasks)
    assert int(entry.split(b"-")[0]) == receipt.accepted_at_ms
    said = door.read(ledger.context, fields[b"message"])
    assert (said.id, said.sender, in_short(said.to)) == (receipt.message_id, "tester", "researcher")
    assert said.trace is not None


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("writer", AgentAddress(agent="writer")),
        ({"team": "editorial", "role": "lead"}, TeamAddress(team="editorial", role="lead")),
        (TeamAddress(team="editorial"), TeamAddress(team="editorial")),
        (StreamAddress(stream="crm"), StreamAddress(stream="crm")),
        (QueueAddress(queue="jobs"), QueueAddress(queue="jobs")),
    ],
)
async def test_a_reply_goes_to_whatever_can_take_one(
    acme: TenantClient, ledger: Ledger, given: Any, meant: ReplyTo
) -> None:
    await acme.send("researcher", "hello", reply_to=given)

    ((_, fields),) = await ledger.client.xrange(ledger.keys.tasks)
    assert door.read(ledger.context, fields[b"message"]).reply_to == meant


async def test_a_reader_learns_that_a_message_was_taken_back_before_it_was_dispatched(
    acme: TenantClient, ledger: Ledger
) -> None:
    await acme.send("researcher", "hello", id="m1", reply_to=QueueAddress(queue="jobs"))
    await acme.cancel("m1")

    (found,) = await read_replies(ledger.context, ledger.client, QueueAddress(queue="jobs"), limit=9)
    assert (found.reply.message_id, found.reply.state) == ("m1", State.CANCELLED)


async def test_the_same_message_twice_is_accepted_once(acme: TenantClient, ledger: Ledger) -> None:
    first = await acme.send("researcher", "hello", id="m1")
    again = await acme.send("researcher", "hello", id="m1")

    assert (again.duplicate, again.accepted_at_ms) == (True, first.accepted_at_ms)
    assert await counted(ledger) == 1


async def test_of_two_producers_with_the_same_message_one_puts_it_on_the_stream(
    acme: TenantClient, ledger: Ledger
) -> None:
    """At the same time, three times each: one id, accepted once (FAULTS.md F21)."""
    another = client_of("acme", ledger.client, ledger)
    sent = await asyncio.gather(*(one.send("researcher", "hello", id="m1") for one in (acme, another) * 3))
    await another.close()

    assert {(one.message_id, one.accepted_at_ms) for one in sent} == {("m1", sent[0].accepted_at_ms)}
    assert sorted(one.duplicate for one in sent) == [False] + 5 * [True]
    assert await counted(ledger) == 1


@pytest.mark.parametrize("other", [{"content": "bye"}, {"priority": "high"}, {"metadata": {"a": 1}}, {"extra": 1}])
async def test_the_same_id_with_another_body_is_a_conflict(
    acme: TenantClient, ledger: Ledger, other: dict[str, Any]
) -> None:
    document = {"id": "m1", "to": {"agent": "researcher"}, "content": "hello"}
    await acme.publish(document)
    with pytest.raises(ConflictError, match="another body"):
        await acme.publish({**document, **other})

    assert await counted(ledger) == 1


async def test_a_refused_message_stores_nothing(acme: TenantClient, ledger: Ledger) -> None:
    before = set(await ledger.client.keys("*"))
    for document in (
        {"to": {"agent": "x"}, "content": ""},
        {"to": {"agent": "x"}, "content": "y", "tenant": "globex"},
        {"to": {"agent": "x"}, "content": "y", "extra": "x" * 10_000_000},
    ):
        with pytest.raises(door.Refusal):
            await acme.publish(document)

    assert set(await ledger.client.keys("*")) == before


async def test_a_suspended_tenant_accepts_nothing_new(acme: TenantClient, ledger: Ledger) -> None:
    await acme.send("researcher", "hello", id="m1")
    await ledger.client.hset(ledger.keys.tenant, "suspended", 1)

    with pytest.raises(SuspendedError):
        await acme.send("researcher", "hello", id="m2")
    assert (await acme.send("researcher", "hello", id="m1")).duplicate
    assert await counted(ledger) == 1


async def test_a_tenant_over_its_bytes_is_overloaded_until_something_ends(acme: TenantClient, ledger: Ledger) -> None:
    await ledger.client.hset(ledger.keys.tenant, "max_bytes", 1_400)
    await acme.send("researcher", "x" * 1_000, id="m1")
    with pytest.raises(OverloadedError):
        await acme.send("researcher", "x" * 300)
    await acme.cancel("m1")

    assert (await acme.send("researcher", "x" * 100)).state is State.ACCEPTED


async def test_an_unregistered_tenant_is_not_found(ledger: Ledger) -> None:
    globex = client_of("globex", ledger.client, ledger)

    with pytest.raises(NotFoundError, match="no tenant"):
        await globex.send("researcher", "hello")
    assert not await ledger.client.keys("postroom:{globex}:*")


async def deliver(ledger: Ledger, message_id: str = "m1") -> None:
    await ledger.dispatch(message_id)
    (taken,) = (await ledger.take(1)).taken
    await ledger.settle(taken, reply="done", stop_reason="end_turn", total_tokens=5, run_id="run-1")


async def test_who_waits_is_woken_by_the_end(acme: TenantClient, ledger: Ledger) -> None:
    await acme.send("researcher", "hello", id="m1")
    waiting = asyncio.create_task(acme.wait("m1", within=20))
    while not acme._listener._waiting:
        await asyncio.sleep(0.001)
    began = time.monotonic()
    await deliver(ledger)
    receipt = await waiting

    assert time.monotonic() - began < 2
    assert (receipt.state, receipt.reply, receipt.is_final) == (State.DELIVERED, "done", True)
    assert not acme._listener._waiting


async def test_an_end_that_came_before_is_seen_at_once(acme: TenantClient, ledger: Ledger) -> None:
    await acme.send("researcher", "hello", id="m1")
    await deliver(ledger)

    assert (await acme.wait("m1", within=5)).state is State.DELIVERED


async def test_a_deadline_is_kept_and_the_message_goes_on(acme: TenantClient, ledger: Ledger) -> None:
    await acme.send("researcher", "hello", id="m1")
    began = time.monotonic()
    with pytest.raises(DeadlineError, match="it goes on"):
        await acme.wait("m1", within=0.05)

    assert time.monotonic() - began < 2
    assert not acme._listener._waiting
    await deliver(ledger)
    assert (await acme.wait("m1", within=5)).state is State.DELIVERED


async def test_a_question_expires_with_the_wait_for_its_answer(acme: TenantClient, ledger: Ledger) -> None:
    with pytest.raises(DeadlineError):
        await acme.ask("researcher", "hello", within=0.05)

    ((_, fields),) = await ledger.client.xrange(ledger.keys.tasks)
    assert door.read(ledger.context, fields[b"message"]).ttl == 0.05


async def test_a_cancel_wins_before_the_turn_and_is_too_late_after(acme: TenantClient, ledger: Ledger) -> None:
    for message_id in ("m1", "m2", "m3"):
        await acme.send("researcher", "hello", id=message_id)
    assert (await acme.cancel("m1")).state is State.CANCELLED
    await ledger.dispatch("m2")
    assert (await acme.cancel("m2")).cause is Cause.BY_SENDER
    await ledger.dispatch("m3")
    (taken,) = (await ledger.take(5)).taken
    with pytest.raises(TooLateError, match="it is running"):
        await acme.cancel("m3")
    await ledger.settle(taken)
    with pytest.raises(TooLateError, match="it is delivered"):
        await acme.cancel("m3")


async def test_a_reader_acks_what_is_over_and_is_told_of_the_rest(acme: TenantClient, ledger: Ledger) -> None:
    await acme.send("researcher", "hello", id="m1")
    await acme.send("researcher", "hello", id="m2")
    await deliver(ledger)

    told = await acme.ack("m1", "m2", "../m3", "m4")
    assert told == {"m1": "acked", "m2": "not_over", "../m3": "not_found", "m4": "not_found"}
    assert await acme.ack("m1", reader="crm") == {"m1": "acked"}
    assert set((await acme.receipt("m1")).acked_at_ms) == {"tester", "crm"}
    with pytest.raises(RefusedError, match="reader"):
        await acme.ack("m1", reader="a|b")
    assert await client_of("globex", ledger.client, ledger).ack("m1") == {"m1": "not_found"}


async def test_what_stood_behind_a_cancelled_message_is_looked_at_at_once(acme: TenantClient, ledger: Ledger) -> None:
    """The first backs off and keeps its place; when it is taken back, the second can go, and nobody was rung."""
    await acme.send("researcher", "hello", id="m1")
    await acme.send("researcher", "hello", id="m2")
    await ledger.dispatch("m1")
    (taken,) = (await ledger.take(1)).taken
    await ledger.settle(taken, State.WAITING, Cause.BACKOFF, due_in_ms=60_000)
    await ledger.dispatch("m2")
    await ledger.client.delete(keys.agenda(), "postroom:{acme}:rung")
    await acme.cancel("m1")

    score = await ledger.client.zscore(keys.agenda(), "acme")
    assert score is not None
    assert score <= ledger.time.now_ms


@pytest.mark.parametrize("odd", ["", "nobody", "m1:1", "*", "../m1", "\ud800", "m1\n", "x" * 200, "{globex}"])
async def test_what_is_not_there_is_not_found(acme: TenantClient, odd: str) -> None:
    for ask in (acme.receipt, acme.cancel, lambda id_: acme.wait(id_, within=1)):
        with pytest.raises(NotFoundError, match="there is no message"):
            await ask(odd)
    assert not acme._listener._waiting


async def test_another_tenants_message_is_as_if_it_were_not_there(acme: TenantClient, ledger: Ledger) -> None:
    await acme.send("researcher", "hello", id="m1")
    globex = client_of("globex", ledger.client, ledger)
    for ask in (globex.receipt, globex.cancel):
        words = []
        for message_id in ("m1", "m0"):
            with pytest.raises(NotFoundError) as caught:
                await ask(message_id)
            words.append(str(caught.value).replace(message_id, "?"))
        assert words[0] == words[1]

    assert (await acme.receipt("m1")).state is State.ACCEPTED


async def test_a_receipt_tells_each_state_with_its_history(acme: TenantClient, ledger: Ledger) -> None:
    await acme.send("researcher", "hello", id="m1")
    assert (await acme.receipt("m1")).state is State.ACCEPTED
    await ledger.dispatch("m1")
    assert (await acme.receipt("m1")).state is State.WAITING
    (taken,) = (await ledger.take(1)).taken
    assert (await acme.receipt("m1")).state is State.RUNNING
    await ledger.settle(taken, State.WAITING, Cause.BACKOFF, due_in_ms=5_000, detail="500")
    waiting = await acme.receipt("m1")
    assert (waiting.cause, waiting.detail) == (Cause.BACKOFF, "500")
    assert waiting.deliveries[0].due_at_ms == ledger.time.now_ms + 5_000
    await ledger.time.advance(seconds=6)
    (taken,) = (await ledger.take(1)).taken
    await ledger.settle(taken, reply="done", stop_reason="end_turn", total_tokens=5, run_id="run-1")
    one = (await acme.receipt("m1")).deliveries[0]

    assert (one.state, one.attempts, one.reply, one.total_tokens) == (State.DELIVERED, 2, "done", 5)
    assert (one.run_id, one.agent, one.read_at_ms) == ("run-1", agent_id(1), ledger.time.now_ms)
    assert [step.state for step in one.history] == [
        State.WAITING,
        State.RUNNING,
        State.WAITING,
        State.RUNNING,
        State.DELIVERED,
    ]


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        (State.DEAD, Cause.ATTEMPTS),
        (State.REFUSED, Cause.UNKNOWN_AGENT),
        (State.EXPIRED, Cause.TTL),
        (State.UNKNOWN, Cause.OUTCOME_UNKNOWN),
    ],
)
async def test_a_receipt_tells_every_end(acme: TenantClient, ledger: Ledger, state: State, cause: Cause) -> None:
    await acme.send("researcher", "hello", id="m1")
    await ledger.dispatch("m1")
    (taken,) = (await ledger.take(1)).taken
    await ledger.settle(taken, state, cause, detail="why")
    receipt = await acme.wait("m1", within=5)

    assert (receipt.state, receipt.cause, receipt.detail, receipt.is_final) == (state, cause, "why", True)
    assert receipt.deliveries[0].read_at_ms is None


async def test_a_message_with_several_deliveries_is_called_by_the_least_finished(
    acme: TenantClient, ledger: Ledger
) -> None:
    await acme.send("researcher", "hello", id="m1")
    await ledger.dispatch("m1", agent_id(1), agent_id(2))
    first, second = (await ledger.take(2)).taken
    await ledger.settle(first)
    assert (await acme.receipt("m1")).state is State.RUNNING
    await ledger.settle(second, State.DEAD, Cause.ATTEMPTS)
    receipt = await acme.receipt("m1")

    assert (receipt.state, receipt.cause) == (State.DEAD, Cause.ATTEMPTS)
    assert [one.state for one in receipt.deliveries] == [State.DELIVERED, State.DEAD]


async def test_a_message_that_is_purged_while_it_is_read_is_not_found(acme: TenantClient, ledger: Ledger) -> None:
    await acme.send("researcher", "hello", id="m1")
    await deliver(ledger)
    await ledger.client.delete(ledger.keys.delivery("m1:1"))

    with pytest.raises(NotFoundError):
        await acme.receipt("m1")


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    server = RedisServer(next(iter(REAL.values()))).start()
    yield server
    server.stop()


@pytest.fixture
async def on_own_server(own_server: RedisServer) -> AsyncIterator[TenantClient]:
    client = connect(own_server.url)
    await client.hset("postroom:{acme}:tenant", mapping={"max_bytes": 10**9, "suspended": 0})
    parts = resources(client)
    one = TenantClient(Context(tenant="acme", principal="tester"), parts)
    yield one
    await one.close()
    await close(client)


async def test_a_redis_that_hangs_is_not_accepted_within_seconds_and_a_retry_adds_nothing(
    own_server: RedisServer, on_own_server: TenantClient
) -> None:
    """FAULTS.md F09: a publish fails or waits about 5 s, with an error that says to try again."""
    await on_own_server.send("researcher", "warm", id="m0")
    own_server.signal(signal.SIGSTOP)
    began = time.monotonic()
    try:
        with pytest.raises(NotAcceptedError, match="publish it again under the same id"):
            await on_own_server.send("researcher", "hello", id="m1")
        assert time.monotonic() - began < 5.5
    finally:
        own_server.signal(signal.SIGCONT)
    await on_own_server.send("researcher", "hello", id="m1")

    assert await on_own_server._resources.client.xlen("postroom:{acme}:tasks") == 2


async def test_a_redis_that_is_gone_is_not_accepted_and_one_that_returns_is_found(
    own_server: RedisServer, on_own_server: TenantClient
) -> None:
    await on_own_server.send("researcher", "warm", id="m0")
    own_server.kill()
    with pytest.raises(NotAcceptedError):
        await on_own_server.send("researcher", "hello", id="m1")
    again = asyncio.create_task(on_own_server.send("researcher", "hello", id="m1"))
    own_server.start()

    assert (await again).state is State.ACCEPTED
    assert await on_own_server._resources.client.xlen("postroom:{acme}:tasks") == 2


async def test_a_redis_that_is_nearly_full_is_overloaded_before_it_refuses_writes(
    own_server: RedisServer, on_own_server: TenantClient
) -> None:
    """Finishing what was accepted needs room, too (HAZARDS.md A13, S14)."""
    client = on_own_server._resources.client
    used = int((await client.info("memory"))["used_memory"])
    await client.config_set("maxmemory", int(used / 0.9))

    with pytest.raises(OverloadedError, match="% full"):
        await on_own_server.send("researcher", "hello")
    assert await client.xlen("postroom:{acme}:tasks") == 0


async def test_a_redis_that_is_full_is_overloaded(own_server: RedisServer, on_own_server: TenantClient) -> None:
    client = on_own_server._resources.client
    await on_own_server.send("researcher", "warm")
    await client.config_set("maxmemory", 1)
    on_own_server._publisher = Publisher(
        on_own_server._resources.scripts, NoAdmission(client, on_own_server._resources.clock)
    )

    with pytest.raises(OverloadedError):
        await on_own_server.send("researcher", "hello")
