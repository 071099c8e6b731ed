"""The audit of what messages to many keep: what does not add up is found, and mended where the ledger tells."""

import pytest

from schemas.delivery import Cause, State
from tests.redis.broker.test_bulk import begin, bulk, expand, move_to
from tests.redis.mailbox.test_audit import Corrupt, count, extra, key, look, lost, member, says
from tests.support.key_check import audit as assert_whole
from tests.support.ledger import OWNER, Ledger, agent_id
from tests.support.time import FakeClock
from workers.mailbox.repair import repair


async def gathering(ledger: Ledger, message_id: str, *numbers: int) -> None:
    assert await ledger.publish(message_id) == "accepted"
    recipients = tuple((agent_id(number), ()) for number in numbers)
    move = await move_to(ledger, message_id, 0, recipients=recipients, gather_want=2, gather_within_ms=900_000)
    assert (await ledger.scripts.dispatch(ledger.context, owner=OWNER, move=move, seed="s")).status == "moved"


@pytest.fixture
async def many(ledger: Ledger) -> Ledger:
    """Messages to many, one in every state; and an agent that is parked."""
    await ledger.send("over", agent_id(1), agent_id(2))
    first, second = (await ledger.take()).taken
    await ledger.settle(first)
    await ledger.settle(second, State.DEAD, Cause.ATTEMPTS)
    await gathering(ledger, "closed", 1, 2)
    for one in (await ledger.take()).taken:
        await ledger.settle(one)
    assert (await ledger.scripts.gather(ledger.context, message_id="closed"))[0] == "gathered"
    await bulk(ledger, "held", 3)
    await ledger.settle((await ledger.take(1)).taken[0])
    assert await ledger.scripts.pause(ledger.context, message_id="held") == "paused"
    assert await ledger.take_ids() == []
    await begin(ledger, "half", 4)
    assert (await expand(ledger, "half", 1)).left == 3
    await gathering(ledger, "asks", 5, 6)
    await ledger.scripts.park(ledger.context, agent=agent_id(7), by="test", why="because")
    assert await look(ledger) == []
    return ledger


def recipient(message: str) -> Corrupt:
    return lambda ledger: ledger.client.rpush(key(ledger, f"snapshot:{message}"), f"{agent_id(9)}|")


def without(record: str, field: str) -> Corrupt:
    return lambda ledger: ledger.client.hdel(key(ledger, record), field)


async def boxed_too(ledger: Ledger) -> None:
    score = await ledger.field("held:2", "score")
    assert score is not None
    await ledger.client.zadd(ledger.keys.mailbox(agent_id(2)), {"held:2": int(score)})


MENDED: dict[str, tuple[Corrupt, str, str]] = {
    "a tally one too high": (says("message:over", "n_delivered", 2), "message", "over"),
    "a tally lost": (without("message:over", "n_dead"), "message", "over"),
    "a tally that is no number": (says("message:over", "n_dead", "many"), "message", "over"),
    "a tally of what is expanded": (says("message:half", "n_delivered", 1), "message", "half"),
    "replies that nobody looks for": (member("gathers", "asks"), "message", "asks"),
    "gathered and still looked for": (extra("gathers", "closed"), "message", "closed"),
    "replies to nothing": (extra("gathers", "never"), "list", "never"),
    "aside and ended": (extra("aside:held", "held:1"), "later", "held:1"),
    "aside and in its mailbox": (boxed_too, "mailbox", "held:2"),
    "aside and before its time": (extra("later", "d:held:2", 10**15), "mailbox", "held:2"),
    "aside and nobody paused it": (without("message:held", "paused"), "aside", "held"),
    "aside with another message": (extra("aside:over", "held:2"), "aside", "over"),
    "aside of nothing": (extra("aside:never", "never:1"), "aside", "never"),
    "aside lost": (lost("aside:held"), "mailbox", "held:2"),
    "expanded too high": (says("message:half", "expanded", 3), "message", "half"),
    "expanded too low": (says("message:half", "expanded", 0), "message", "half"),
    "expanded is no number": (says("message:half", "expanded", "some"), "record", "half"),
    "open of what is expanded": (says("message:half", "open", 9), "message", "half"),
    "no bulk send": (member("bulks", "half"), "list", "half"),
    "a bulk send of nothing": (extra("bulks", "never"), "list", "never"),
    "expanding too high": (count("expanding", 1), "counter", "expanding"),
    "expanding too low": (count("expanding", -1), "counter", "expanding"),
    "accepted while one is expanded": (count("accepted", 2), "counter", "accepted"),
    "bytes while one is expanded": (count("bytes", 2), "counter", "bytes"),
    "recipients of nothing": (recipient("never"), "snapshot", "never"),
    "recipients of what is made": (recipient("held"), "snapshot", "held"),
    "parked and not held": (without("holds", agent_id(7)), "parked", agent_id(7)),
}
NOT_MENDED: dict[str, tuple[Corrupt, str, str]] = {
    "a recipient lost": (lambda ledger: ledger.client.rpop(key(ledger, "snapshot:half")), "snapshot", "half"),
    "a recipient too many": (recipient("half"), "snapshot", "half"),
    "all recipients lost": (lost("snapshot:half"), "snapshot", "half"),
    "a delivery lost while it is expanded": (lost("delivery:half:1"), "snapshot", "half"),
    "recipients of the wrong type": (
        lambda ledger: ledger.client.set(key(ledger, "snapshot:other"), "x"),
        "type",
        "snapshot:other",
    ),
}


@pytest.mark.parametrize("name", [*MENDED, *NOT_MENDED])
async def test_it_is_found(many: Ledger, name: str) -> None:
    corrupt, kind, id_ = {**MENDED, **NOT_MENDED}[name]
    await corrupt(many)

    assert (kind, id_) in {(one.kind, one.id) for one in await look(many)}


@pytest.mark.parametrize("name", MENDED)
async def test_what_the_ledger_tells_is_mended(many: Ledger, name: str) -> None:
    """And everybody gets it who should: the bulk sends go on, the gathering closes."""
    await MENDED[name][0](many)

    left = await repair(many.context, many.scripts, FakeClock(), await look(many), rules=many.rules)

    assert left == []
    await assert_whole(many.client, many.context, many.time.now_us)
    assert (await expand(many, "half")).left == 0
    await many.scripts.resume(many.context, message_id="held")
    delivered = []
    while taken := (await many.take()).taken:
        delivered += [one.id for one in taken]
        for one in taken:
            await many.settle(one)
    assert sorted(delivered) == ["asks:1", "asks:2", "half:1", "half:2", "half:3", "half:4", "held:2", "held:3"]
    assert (await many.scripts.gather(many.context, message_id="asks"))[0] == "gathered"
    await assert_whole(many.client, many.context, many.time.now_us)


@pytest.mark.parametrize("name", NOT_MENDED)
async def test_who_else_should_get_it_is_for_a_person_to_say(many: Ledger, name: str) -> None:
    _, kind, id_ = NOT_MENDED[name]
    await NOT_MENDED[name][0](many)

    left = await repair(many.context, many.scripts, FakeClock(), await look(many), rules=many.rules)

    assert [one.mend for one in left if (one.kind, one.id) == (kind, id_)] == [None]


async def test_several_at_once_are_mended_together(many: Ledger) -> None:
    for name, (corrupt, _, _) in MENDED.items():
        if not name.startswith(("aside lost", "a tally that", "expanding")):
            await corrupt(many)

    found = await look(many)
    for _ in range(3):
        found = await repair(many.context, many.scripts, FakeClock(), found, rules=many.rules)

    assert found == []
