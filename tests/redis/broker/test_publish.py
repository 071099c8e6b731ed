"""Publish: once for each id, within the tenant's bytes."""

import pytest

from schemas.context import service_context
from tests.redis.broker.shorthand import events, record, sweep, take_one, with_rules
from tests.support.ledger import Ledger
from workers.errors import ConfigurationError
from workers.settings import load


async def test_an_accepted_message_stands_on_the_stream_with_its_record(ledger: Ledger) -> None:
    """Accepted means kept: the entry, the record, the count and the event are one step."""
    answer = await ledger.scripts.publish(ledger.context, message_id="m1", digest="d", envelope='{"é":1}', size=7)

    assert answer.status == "accepted"
    [(entry, fields)] = await ledger.client.xrange(ledger.keys.tasks)
    assert fields == {b"message": '{"é":1}'.encode()}
    assert await record(ledger, "m1") == {
        "digest": "d",
        "accepted_at": str(answer.accepted_at_ms),
        "entry": entry.decode(),
        "state": "accepted",
        "size": "7",
    }
    assert entry.decode().startswith(f"{answer.accepted_at_ms}-")
    assert await events(ledger) == [("m1", "accepted", "")]
    assert await ledger.counters() == {"accepted": 1, "bytes": 7}


async def test_the_same_message_again_adds_nothing(ledger: Ledger) -> None:
    """A producer that lost the answer publishes again and is told when it was accepted."""
    first = await ledger.scripts.publish(ledger.context, message_id="m1", digest="d", envelope="{}", size=5)
    before = await ledger.counters()

    again = await ledger.scripts.publish(ledger.context, message_id="m1", digest="d", envelope="{}", size=5)

    assert again.status == "duplicate"
    assert again.accepted_at_ms == first.accepted_at_ms
    assert await ledger.counters() == before
    assert await ledger.client.xlen(ledger.keys.tasks) == 1


async def test_another_body_under_a_known_id_is_a_conflict(ledger: Ledger) -> None:
    await ledger.publish("m1", "hello")

    assert await ledger.publish("m1", "something else") == "conflict"
    assert await ledger.client.xlen(ledger.keys.tasks) == 1


async def test_a_message_that_ended_is_still_known(ledger: Ledger) -> None:
    """Repeating is told for as long as the record is kept, not only while it waits."""
    await ledger.send("m1")
    await ledger.settle((await ledger.take()).taken[0])

    assert await ledger.publish("m1") == "duplicate"
    assert await ledger.publish("m1", "another") == "conflict"


async def test_a_message_that_ended_is_still_known_a_day_later(ledger: Ledger) -> None:
    """With the shortest time that may be set (FAULTS.md F21: a window of 24 h at least)."""
    shortest = load(kept_days=1)
    with pytest.raises(ConfigurationError, match="KEPT_DAYS"):
        load(kept_days=0.99)
    ledger = with_rules(ledger, kept_ms=shortest.rules().kept_ms)
    await ledger.send("m1")
    await ledger.settle(await take_one(ledger))
    await ledger.time.advance(seconds=24 * 3600 - 1)
    await sweep(ledger)

    assert await ledger.publish("m1") == "duplicate"
    assert await ledger.publish("m1", "another") == "conflict"


async def test_an_unregistered_tenant_gets_nothing_stored(ledger: Ledger) -> None:
    nobody = service_context("nobody", "test")

    answer = await ledger.scripts.publish(nobody, message_id="m1", digest="d", envelope="{}", size=5)

    assert answer.status == "unknown_tenant"
    assert not await ledger.client.keys("postroom:{nobody}:*")


async def test_a_suspended_tenant_is_refused_but_repetitions_are_answered(ledger: Ledger) -> None:
    """Whoever was accepted before learns so, suspended or not."""
    await ledger.publish("m1")
    await ledger.client.hset(ledger.keys.tenant, "suspended", 1)

    assert await ledger.publish("m2") == "suspended"
    assert await ledger.publish("m1") == "duplicate"
    assert await ledger.publish("m1", "another") == "conflict"


async def test_bytes_are_a_ceiling_and_come_back_when_messages_end(ledger: Ledger) -> None:
    """Exactly the limit fits, one more does not; what has ended makes room."""
    await ledger.register(max_bytes=10)
    assert await ledger.publish("m1", "12345") == "accepted"
    assert await ledger.publish("m2", "123456") == "overloaded"
    assert await ledger.publish("m2", "12345") == "accepted"
    assert await ledger.publish("m3", "1") == "overloaded"
    assert await ledger.publish("m1", "12345") == "duplicate"

    await ledger.scripts.cancel(ledger.context, message_id="m1")

    assert await ledger.publish("m3", "1") == "accepted"
    assert (await ledger.counters())["bytes"] == 6


async def test_tenants_do_not_see_each_other(ledger: Ledger) -> None:
    """The same id in two tenants is two messages."""
    other = Ledger(ledger.client, ledger.time, service_context("other", "test"))
    await other.register()

    assert await ledger.publish("m1", "one") == "accepted"
    assert await other.publish("m1", "two") == "accepted"
    await ledger.dispatch("m1", content="one")

    assert (await other.take()).taken == ()
    assert await other.counters() == {"accepted": 1, "bytes": 3}


async def test_what_has_expired_by_redis_clock_is_refused_at_the_door(ledger: Ledger) -> None:
    """But a repetition of what was accepted in time is still a repetition."""

    async def publish(message_id: str, expires_at_ms: int) -> str:
        answer = await ledger.scripts.publish(
            ledger.context, message_id=message_id, digest="d", envelope="{}", size=5, expires_at_ms=expires_at_ms
        )
        return answer.status

    in_time = await publish("m1", ledger.time.now_ms + 10)
    await ledger.time.advance(ms=10)
    late = await publish("m2", ledger.time.now_ms)
    again = await publish("m1", ledger.time.now_ms)

    assert [in_time, late, again] == ["accepted", "expired", "duplicate"]
    assert await ledger.client.xlen(ledger.keys.tasks) == 1


async def test_what_could_never_fit_is_not_told_to_try_later(ledger: Ledger) -> None:
    await ledger.register(max_bytes=100)

    answer = await ledger.scripts.publish(ledger.context, message_id="m1", digest="d", envelope="{}", size=101)

    assert answer.status == "too_large"
