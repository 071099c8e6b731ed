"""The audit finds what does not add up, and the repair mends what it says it can."""

from collections.abc import Awaitable, Callable

import pytest

from schemas.delivery import Cause, State
from tests.support.key_check import audit as assert_whole
from tests.support.ledger import Ledger, agent_id
from tests.support.time import FakeClock
from workers.broker.rules import PARKED_MS
from workers.mailbox.audit import audit
from workers.mailbox.finding import Finding
from workers.mailbox.repair import repair

Corrupt = Callable[[Ledger], Awaitable[object]]


async def look(ledger: Ledger) -> list[Finding]:
    return await audit(ledger.context, ledger.client, FakeClock(), rules=ledger.rules)


@pytest.fixture
async def busy(ledger: Ledger) -> Ledger:
    """Something in every state."""
    await ledger.send("gone", agent_id(1))
    await ledger.settle((await ledger.take()).taken[0])
    await ledger.send("dead", agent_id(1))
    await ledger.settle((await ledger.take()).taken[0], State.DEAD, Cause.ATTEMPTS)
    await ledger.send("run", agent_id(2))
    await ledger.take()
    await ledger.send("wait", agent_id(2), expires_in_ms=900_000)
    await ledger.send("ready", agent_id(3), expires_in_ms=900_000)
    await ledger.send("later", agent_id(4), not_before_in_ms=900_000)
    await ledger.publish("fresh")
    assert await look(ledger) == []
    return ledger


def key(ledger: Ledger, name: str) -> str:
    return f"{ledger.keys.root}{name}"


def member(name: str, one: str) -> Corrupt:
    return lambda ledger: ledger.client.zrem(key(ledger, name), one)


def extra(name: str, one: str, score: int = 1) -> Corrupt:
    return lambda ledger: ledger.client.zadd(key(ledger, name), {one: score})


def count(name: str, by: int) -> Corrupt:
    return lambda ledger: ledger.client.hincrby(ledger.keys.counters, name, by)


def says(record: str, field: str, value: object) -> Corrupt:
    return lambda ledger: ledger.client.hset(key(ledger, record), field, str(value))


def lost(name: str) -> Corrupt:
    return lambda ledger: ledger.client.delete(key(ledger, name))


MENDED: dict[str, tuple[Corrupt, str, str]] = {
    "counter": (count("waiting", 3), "counter", "waiting"),
    "bytes": (count("bytes", -7), "counter", "bytes"),
    "an end not counted": (count("delivered", -1), "counter", "delivered"),
    "mailbox lost": (lost(f"mailbox:{agent_id(3)}"), "mailbox", "ready:1"),
    "mailbox of nothing": (extra(f"mailbox:{agent_id(3)}", "ghost:1"), "mailbox", "ghost:1"),
    "an ended one in a mailbox": (extra(f"mailbox:{agent_id(3)}", "gone:1"), "mailbox", "gone:1"),
    "stuck": (lost("ready:normal"), "stuck", agent_id(3)),
    "ready with nothing": (extra("ready:low", agent_id(9)), "place", agent_id(9)),
    "ready twice": (extra("ready:low", agent_id(3)), "place", agent_id(3)),
    "later lost": (member("later", "d:later:1"), "mailbox", "later:1"),
    "later of nothing": (extra("later", "d:ghost:1", 10**15), "later", "ghost:1"),
    "lease lost": (member("leases", agent_id(2)), "lease", agent_id(2)),
    "lease of nothing": (extra("leases", agent_id(3), 10**15), "lease", agent_id(3)),
    "holder lost": (lambda ledger: ledger.client.hdel(key(ledger, "holders"), agent_id(2)), "lease", "run:1"),
    "expiry lost": (member("expiries", "ready:1"), "expiry", "ready:1"),
    "expiry of nothing": (extra("expiries", "gone:1", 10**15), "expiry", "gone:1"),
    "not listed": (member("messages", "ready"), "list", "ready"),
    "never purged": (member("ended", "gone"), "list", "gone"),
    "purged too early": (extra("ended", "ready", 10**15), "list", "ready"),
    "parked and not held": (
        lambda ledger: ledger.client.hset(key(ledger, "parked"), agent_id(3), "1|cli:me|because"),
        "parked",
        agent_id(3),
    ),
    "held as parked by nobody": (
        lambda ledger: ledger.client.hset(key(ledger, "holds"), agent_id(9), f"{PARKED_MS}|parked"),
        "parked",
        agent_id(9),
    ),
    "open miscounted": (says("message:ready", "open", 2), "message", "ready"),
}
NOT_MENDED: dict[str, tuple[Corrupt, str, str]] = {
    "unknown key": (lambda ledger: ledger.client.set(key(ledger, "stray"), 1), "key", "stray"),
    "letter lost": (lost("dead"), "letter", "dead:1"),
    "entry lost": (lost("tasks"), "message", "fresh"),
    "message lost": (lost("message:ready"), "delivery", "ready:1"),
    "delivery lost": (lost("delivery:gone:1"), "message", "gone"),
    "two letters": (
        lambda ledger: ledger.client.xadd(
            ledger.keys.dead, {"message": "gone", "delivery": "gone:1", "state": "dead", "cause": "attempts"}
        ),
        "letter",
        "gone:1",
    ),
    "record without a state": (
        lambda ledger: ledger.client.hdel(key(ledger, "delivery:gone:1"), "state"),
        "record",
        "gone:1",
    ),
}


async def wrong_type(ledger: Ledger) -> None:
    await ledger.client.delete(ledger.keys.later)
    await ledger.client.set(ledger.keys.later, "text")


NOT_MENDED["wrong type"] = (wrong_type, "type", "later")


@pytest.mark.parametrize("name", [*MENDED, *NOT_MENDED])
async def test_it_is_found(busy: Ledger, name: str) -> None:
    corrupt, kind, id_ = {**MENDED, **NOT_MENDED}[name]
    await corrupt(busy)

    found = await look(busy)

    assert (kind, id_) in {(one.kind, one.id) for one in found}
    assert all(one.sentence for one in found)


@pytest.mark.parametrize("name", MENDED)
async def test_what_the_ledger_tells_is_mended(busy: Ledger, name: str) -> None:
    """To the last key, and no message is lost by it."""
    await MENDED[name][0](busy)
    before = await busy.client.zrange(busy.keys.messages, 0, -1)

    found = await look(busy)
    left = await repair(busy.context, busy.scripts, FakeClock(), found, rules=busy.rules)

    assert left == []
    await assert_whole(busy.client, busy.context, busy.time.now_us)
    assert set(before) <= set(await busy.client.zrange(busy.keys.messages, 0, -1))


@pytest.mark.parametrize("name", NOT_MENDED)
async def test_what_the_ledger_does_not_tell_is_left_to_a_person(busy: Ledger, name: str) -> None:
    _, kind, id_ = NOT_MENDED[name]
    await NOT_MENDED[name][0](busy)

    found = await look(busy)
    left = await repair(busy.context, busy.scripts, FakeClock(), found, rules=busy.rules)

    [one] = [one for one in left if (one.kind, one.id) == (kind, id_)]
    assert one.mend is None


async def test_several_at_once_are_mended_together(busy: Ledger) -> None:
    for corrupt, _, _ in MENDED.values():
        await corrupt(busy)

    found = await look(busy)
    for _ in range(2):
        found = await repair(busy.context, busy.scripts, FakeClock(), found, rules=busy.rules)

    assert found == []


async def test_a_mended_agent_gets_its_turn(busy: Ledger) -> None:
    await busy.client.delete(key(busy, "ready:normal"))
    assert await busy.take_ids() == []

    await repair(busy.context, busy.scripts, FakeClock(), await look(busy), rules=busy.rules)

    assert await busy.take_ids() == ["ready:1"]


async def test_what_is_gone_on_the_second_look_is_not_told(busy: Ledger) -> None:
    """It was under way."""
    await busy.client.hincrby(busy.keys.counters, "waiting", 1)

    class Meanwhile(FakeClock):
        async def sleep(self, seconds: float) -> None:  # noqa: ARG002  # its port
            await busy.client.hincrby(busy.keys.counters, "waiting", -1)

    assert await audit(busy.context, busy.client, Meanwhile(), rules=busy.rules) == []
