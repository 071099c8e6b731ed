"""Ack: a reader outside marks what is over as read, once; nothing else changes."""

from schemas.delivery import Cause, State, Taken
from tests.redis.broker.shorthand import add_raw, record, refuse, take_one
from tests.support.ledger import Ledger, agent_id
from workers.bus.receipts import read_receipt


async def ack(ledger: Ledger, *ids: str, reader: str = "crm") -> tuple[str, ...]:
    return await ledger.scripts.ack(ledger.context, reader=reader, message_ids=ids)


async def acked(ledger: Ledger, message_id: str = "m1") -> dict[str, int]:
    return (await read_receipt(ledger.context, ledger.client, message_id)).acked_at_ms


async def test_what_is_over_is_acked_once_for_each_reader(ledger: Ledger) -> None:
    await ledger.send("m1")
    await ledger.settle(await take_one(ledger))
    first_ms = ledger.time.now_ms

    assert await ack(ledger, "m1") == ("acked",)
    await ledger.time.advance(seconds=1)
    assert await ack(ledger, "m1", "m1") == ("already", "already")
    assert await ack(ledger, "m1", reader="rm") == ("acked",)
    assert await acked(ledger) == {"crm": first_ms, "rm": first_ms + 1_000}


async def test_what_is_not_over_is_refused(ledger: Ledger) -> None:
    await ledger.publish("stream")
    await ledger.send("waits")
    await ledger.send("half", agent_id(2), agent_id(3))
    await ledger.settle(await take_one_of(ledger, "half:1"))

    assert await ack(ledger, "stream", "waits", "half", "nobody") == ("not_over", "not_over", "not_over", "not_found")
    assert "acks" not in await record(ledger, "half")


async def take_one_of(ledger: Ledger, delivery_id: str) -> Taken:
    return next(one for one in (await ledger.take()).taken if one.id == delivery_id)


async def test_every_end_can_be_acked(ledger: Ledger) -> None:
    await ledger.publish("cancelled")
    await ledger.scripts.cancel(ledger.context, message_id="cancelled")
    await refuse(ledger, await add_raw(ledger, {"message": "bad"}), "refused")
    await ledger.send("dead")
    await ledger.settle(await take_one(ledger), State.DEAD, Cause.ATTEMPTS)

    assert await ack(ledger, "cancelled", "refused", "dead") == ("acked", "acked", "acked")


async def test_what_is_redriven_is_unread_again(ledger: Ledger) -> None:
    await ledger.send("m1")
    await ledger.settle(await take_one(ledger), State.DEAD, Cause.ATTEMPTS)
    await ledger.publish("m2")
    await refuse(ledger, await ledger.entry_of("m2"), "m2")
    await ack(ledger, "m1", "m2")
    for letter, _ in await ledger.client.xrange(ledger.keys.dead):
        await ledger.scripts.redrive(ledger.context, entry_id=letter.decode(), ttl_ms=None)
    assert await acked(ledger, "m2") == {}
    assert await ack(ledger, "m1") == ("not_over",)
    await ledger.settle(await take_one(ledger))

    assert await acked(ledger) == {}
    assert await ack(ledger, "m1") == ("acked",)


async def test_it_is_purged_when_it_would_have_been(ledger: Ledger) -> None:
    await ledger.send("m1")
    await ledger.settle(await take_one(ledger))
    purge_at = await ledger.client.zscore(f"{ledger.keys.root}ended", "m1")
    await ledger.time.advance(seconds=60)
    await ack(ledger, "m1")

    assert await ledger.client.zscore(f"{ledger.keys.root}ended", "m1") == purge_at
