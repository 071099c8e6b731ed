"""Refuse: what cannot be a delivery becomes a dead letter, as it came."""

import pytest

from tests.redis.broker.shorthand import add_raw, events, letters, record, refuse
from tests.support.ledger import Ledger

RAW = [b"not json", b"\xff\xfe\x00 not UTF-8", b"", "é".encode() * 1000, b"\r\n*1\r\n"]


@pytest.mark.parametrize("raw", RAW, ids=range(len(RAW)))
async def test_the_bytes_are_kept_as_they_came(ledger: Ledger, raw: bytes) -> None:
    """Whatever a producer wrote, somebody can look at it."""
    entry = await add_raw(ledger, {"message": raw})

    assert await refuse(ledger, entry, f"x{entry}", detail="bad") == "refused"

    [letter] = await letters(ledger)
    assert letter["raw"] == raw
    assert (letter["message"], letter["state"]) == (f"x{entry}".encode(), b"refused")
    assert (letter["cause"], letter["detail"], letter["attempts"]) == (b"invalid", b"bad", b"0")
    assert await ledger.client.xlen(ledger.keys.tasks) == 0


async def test_an_entry_without_the_field_is_kept_whole(ledger: Ledger) -> None:
    entry = await add_raw(ledger, {"text": "hello", "to": b"\xff"})

    assert await refuse(ledger, entry, f"x{entry}") == "refused"

    assert (await letters(ledger))[0]["raw"] == b"text hello to \xff"


async def test_a_refused_entry_has_a_record_that_can_be_found(ledger: Ledger) -> None:
    """Its sender asks for it by id, and is told why."""
    entry = await add_raw(ledger, {"message": "bad"})

    await refuse(ledger, entry, "m1", detail="no recipient")

    found = await record(ledger, "m1")
    assert (found["state"], found["cause"], found["detail"]) == ("refused", "invalid", "no recipient")
    assert (found["entry"], found["deliveries"]) == (entry, "0")
    assert found["ended_at"] == str(ledger.time.now_ms)
    assert await ledger.client.zscore(ledger.keys.messages, "m1") == int(entry.partition("-")[0])
    assert await events(ledger) == [("m1", "refused", "invalid")]
    assert (await ledger.counters())["refused"] == 1


async def test_a_published_message_that_is_refused_gives_its_bytes_back(ledger: Ledger) -> None:
    """Validated by the SDK, unroutable at the dispatcher: it ends once, in one state."""
    await ledger.publish("m1", "hello")

    assert await refuse(ledger, await ledger.entry_of("m1"), "m1") == "refused"

    assert await ledger.counters() == {"accepted": 0, "bytes": 0, "refused": 1}
    assert await ledger.publish("m1", "hello") == "duplicate"


@pytest.mark.parametrize("state", ["accepted", "open", "ended"])
async def test_another_message_under_the_same_id_is_left_alone(ledger: Ledger, state: str) -> None:
    """Whatever name the dispatcher gives: a record that came by another entry is not this one's."""
    await ledger.publish("m1", "hello")
    if state != "accepted":
        await ledger.dispatch("m1")
    if state == "ended":
        await ledger.settle((await ledger.take()).taken[0])
    before, counters = await record(ledger, "m1"), await ledger.counters()
    entry = await add_raw(ledger, {"message": "bad"})

    assert await refuse(ledger, entry, "m1") == "refused"

    assert await record(ledger, "m1") == before
    assert await ledger.counters() == {**counters, "refused": 1}
    assert (await record(ledger, f"x{entry}"))["state"] == "refused"
    assert [letter["message"] for letter in await letters(ledger)] == [f"x{entry}".encode()]


async def test_a_refused_message_is_kept_as_long_as_its_letter(ledger: Ledger) -> None:
    entry = await add_raw(ledger, {"message": "bad"})
    await refuse(ledger, entry, "m1")

    await ledger.time.advance(ms=ledger.rules.kept_ms + 1)
    await ledger.scripts.sweep(ledger.context, seed="s", overflow_ms=1_000)

    assert (await record(ledger, "m1"))["state"] == "refused"


async def test_refusing_twice_refuses_once(ledger: Ledger) -> None:
    """The dispatcher crashed behind it and reads again."""
    entry = await add_raw(ledger, {"message": "bad"})

    assert await refuse(ledger, entry, "m1") == "refused"
    assert await refuse(ledger, entry, "m1") == "gone"
    assert len(await letters(ledger)) == 1
