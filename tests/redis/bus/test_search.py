"""Finding messages: what fits, in which order, and all of one thread, without reading what cannot fit."""

from typing import Any

import pytest

from schemas.agent import Agent
from schemas.delivery import Cause, State
from tests.redis.broker.shorthand import take_one
from tests.support.builders import envelope
from tests.support.ledger import OWNER, Ledger, agent_id
from workers.broker.results import Move
from workers.bus import search as module
from workers.bus.listing import read_message
from workers.bus.search import Wanted, read_thread, search
from workers.errors import NotFoundError

NAMES = {1: "researcher", 2: "writer", 3: "editor"}


@pytest.fixture
async def acme(ledger: Ledger) -> Ledger:
    """Whose agents are remembered."""
    for number, name in NAMES.items():
        one = Agent(id=agent_id(number), name=name, tags=("tenant:acme",))
        await ledger.client.hset(ledger.keys.agents, one.id, one.model_dump_json())
    return ledger


async def say(ledger: Ledger, id_: str, *numbers: int, teams: tuple[str, ...] = (), **fields: Any) -> None:
    """Publishes, a millisecond after the last one, and dispatches to these agents; to none: stays on the stream."""
    await publish(ledger, id_, **{"to": {"agent": NAMES[numbers[0]]} if numbers else {"agent": "writer"}, **fields})
    if not numbers:
        return
    said = envelope(**{"id": id_, "to": {"agent": NAMES[numbers[0]]}, **fields})
    move = Move(
        entry_id=await ledger.entry_of(id_),
        message_id=id_,
        digest=said.digest(),
        envelope=said.to_wire(),
        size=1,
        rank=said.priority.rank,
        not_before_ms=None,
        expires_at_ms=None,
        recipients=tuple((agent_id(number), teams) for number in numbers),
    )
    answer = await ledger.scripts.dispatch(ledger.context, owner=OWNER, move=move, seed="s")
    assert answer.status == "moved"


async def publish(ledger: Ledger, id_: str, **fields: Any) -> None:
    said = envelope(**{"id": id_, **fields})
    answer = await ledger.scripts.publish(
        ledger.context, message_id=id_, digest=said.digest(), envelope=said.to_wire(), size=1
    )
    assert answer.status == "accepted"


async def found(ledger: Ledger, limit: int = 100, **wanted: Any) -> list[str]:
    listed = await search(ledger.context, ledger.client, Wanted(**wanted), limit=limit)
    return [one.receipt.message_id for one in listed]


async def thread(ledger: Ledger, id_: str, limit: int = 100, **wanted: Any) -> list[str]:
    listed = await read_thread(ledger.context, ledger.client, id_, Wanted(**wanted), limit=limit)
    return [one.receipt.message_id for one in listed]


async def accepted_at(ledger: Ledger, id_: str) -> int:
    return int(await ledger.client.hget(ledger.keys.message(id_), "accepted_at"))


async def place(ledger: Ledger, *ids: str) -> None:
    """Gives messages times of acceptance that are 10 ms apart, oldest first."""
    for number, id_ in enumerate(ids):
        at_ms = 1_000_000 + 10 * number
        await ledger.client.hset(ledger.keys.message(id_), "accepted_at", at_ms)
        await ledger.client.zadd(ledger.keys.messages, {id_: at_ms})


async def test_by_agent_by_name_and_id(acme: Ledger) -> None:
    await say(acme, "m1", 1)
    await say(acme, "m2", 2)
    await say(acme, "m3", 2, 1)
    await say(acme, "m4")
    await place(acme, "m1", "m2", "m3", "m4")

    assert await found(acme, agent="researcher") == ["m3", "m1"]
    assert await found(acme, agent=agent_id(1)) == ["m3", "m1"]
    assert await found(acme, agent="writer") == ["m4", "m3", "m2"]
    assert await found(acme, agent="nobody") == []


async def test_by_team_it_was_sent_to_or_counts_under(acme: Ledger) -> None:
    await say(acme, "m1", 1, teams=("editorial",))
    await say(acme, "m2", 2, teams=("editor", "sales"))
    await say(acme, "m3", 1, to={"team": "editorial", "role": "lead"})
    await say(acme, "m4", to={"team": "editorial"})
    await place(acme, "m1", "m2", "m3", "m4")

    assert await found(acme, team="editorial") == ["m4", "m3", "m1"]
    assert await found(acme, team="sales") == ["m2"]
    assert await found(acme, team="editorial", agent="researcher") == ["m3", "m1"]


async def test_by_state_of_the_message_and_of_a_delivery(acme: Ledger) -> None:
    await say(acme, "m1", 1)
    await acme.settle(await take_one(acme), State.DEAD, Cause.ATTEMPTS)
    await say(acme, "m2", 1, 2)
    for taken in (await acme.take()).taken:
        await acme.settle(taken, State.DEAD if taken.agent == agent_id(2) else State.DELIVERED)
    await say(acme, "m3", 3)
    await say(acme, "m4")
    await place(acme, "m1", "m2", "m3", "m4")

    assert await found(acme, state=State.DEAD) == ["m2", "m1"]
    assert await found(acme, state=State.WAITING) == ["m3"]
    assert await found(acme, state=State.ACCEPTED) == ["m4"]
    assert await found(acme, in_state=State.DELIVERED) == ["m2"]
    assert await found(acme, in_state=State.ACCEPTED) == []
    assert await found(acme, in_state=State.DEAD, agent="researcher") == ["m1"]


async def test_by_time_from_both_sides(acme: Ledger) -> None:
    for number in range(4):
        await say(acme, f"m{number}", 1)
    await place(acme, "m0", "m1", "m2", "m3")

    assert await found(acme, since_ms=1_000_010) == ["m3", "m2", "m1"]
    assert await found(acme, until_ms=1_000_010) == ["m1", "m0"]
    assert await found(acme, since_ms=1_000_010, until_ms=1_000_020) == ["m2", "m1"]


async def test_what_a_reader_has_acked_is_left_out_for_that_reader(acme: Ledger) -> None:
    for number in (1, 2):
        await say(acme, f"m{number}", 1)
        await acme.settle(await take_one(acme))
    await place(acme, "m1", "m2")
    await acme.scripts.ack(acme.context, reader="crm", message_ids=["m1"])

    assert await found(acme, unacked_by="crm") == ["m2"]
    assert await found(acme, unacked_by="rm") == ["m2", "m1"]


async def test_what_an_agent_said_belongs_to_its_history(acme: Ledger) -> None:
    await say(acme, "m1", 1)
    await say(acme, "m2", 2, sender=f"agent:{agent_id(1)}", content="from the researcher")
    await say(acme, "m3", 2, sender="cli:alice", content=f"about agent:{agent_id(1)}")
    await place(acme, "m1", "m2", "m3")

    assert await found(acme, agent="researcher", said=True) == ["m2", "m1"]
    assert await found(acme, agent=agent_id(1), said=True) == ["m2", "m1"]
    assert await found(acme, agent="researcher") == ["m1"]


async def test_pages_of_one_moment_hide_and_double_nothing(acme: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 3)
    monkeypatch.setattr(module, "AT_ONCE", 2)
    ids = [f"m{number:02}" for number in range(20)]
    for id_ in ids:
        await say(acme, id_, 1)
        at_ms = 1_000_000 + int(id_[1:]) // 8
        await acme.client.hset(acme.keys.message(id_), "accepted_at", at_ms)
        await acme.client.zadd(acme.keys.messages, {id_: at_ms})

    assert await found(acme) == ids[::-1]
    assert await found(acme, limit=7) == ids[:12:-1]
    assert await thread(acme, "m05") == ["m05"]


async def test_a_rare_message_is_found_without_reading_the_others_whole(
    acme: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):
        await say(acme, f"m{number}", 1)
    await say(acme, "rare", 2)
    read: list[str] = []
    whole = read_message

    async def counted(context: Any, client: Any, message_id: str) -> Any:
        read.append(message_id)
        return await whole(context, client, message_id)

    monkeypatch.setattr(module, "read_message", counted)

    assert await found(acme, agent="writer") == ["rare"]
    assert await found(acme, agent="nobody") == []
    assert read == ["rare"]


# Threads


async def chain(ledger: Ledger) -> None:
    """A question, its answer sent on, what followed from that; and what has nothing to do with it."""
    await say(ledger, "other", 1)
    await say(ledger, "root", 1, correlation_id="story-1")
    await say(ledger, "stranger", 2)
    await say(ledger, "answer", 2, correlation_id="story-1", causation_id="root")
    await say(ledger, "follows", 3, causation_id="answer")
    await say(ledger, "late", causation_id="follows")
    await say(ledger, "foreign", 3, causation_id="other", correlation_id="other")
    await place(ledger, "other", "root", "stranger", "answer", "follows", "late", "foreign")


@pytest.mark.parametrize("id_", ["root", "answer", "follows", "late", "story-1"])
async def test_a_thread_is_whole_whatever_of_it_is_named(acme: Ledger, id_: str) -> None:
    """What still stands on the stream, too."""
    await chain(acme)

    assert await thread(acme, id_) == ["root", "answer", "follows", "late"]


async def test_what_was_accepted_in_one_millisecond_is_one_thread_all_the_same(acme: Ledger) -> None:
    """There the order of the list is that of the ids."""
    for id_, cause in (("c", None), ("b", "c"), ("a", "b")):
        await say(acme, id_, 1, causation_id=cause)
    await place(acme, "c")
    for id_ in "ab":
        await acme.client.zadd(acme.keys.messages, {id_: 1_000_000})

    assert sorted(await thread(acme, "c")) == ["a", "b", "c"]


async def test_a_thread_is_narrowed_and_cut_like_any_listing(acme: Ledger) -> None:
    await chain(acme)

    assert await thread(acme, "root", limit=2) == ["root", "answer"]
    assert await thread(acme, "root", agent="writer") == ["answer", "late"]
    assert await thread(acme, "root", since_ms=1_000_030, until_ms=1_000_040) == ["answer", "follows"]
    assert await thread(acme, "root", state=State.EXPIRED) == []


async def test_a_thread_whose_first_message_is_purged_goes_on(acme: Ledger) -> None:
    await chain(acme)
    for key in (acme.keys.message("root"), acme.keys.delivery("root:1")):
        await acme.client.delete(key)
    await acme.client.zrem(acme.keys.messages, "root")

    assert await thread(acme, "answer") == ["answer", "follows", "late"]


async def test_a_thread_of_nothing_is_not_found(acme: Ledger) -> None:
    with pytest.raises(NotFoundError, match="no message and no correlation 'nothing'"):
        await thread(acme, "nothing")


async def test_the_last_recipient_of_many_finds_its_message_and_its_delivery(acme: Ledger) -> None:
    await say(acme, "many", *range(1, 121))
    assert await found(acme, agent=agent_id(120)) == ["many"]
    assert await found(acme, agent=agent_id(121)) == []
    [one] = await search(acme.context, acme.client, Wanted(agent=agent_id(120)), limit=1)
    assert [each.agent for each in one.receipt.deliveries] == [agent_id(120)]
    assert (one.receipt.recipients, one.receipt.open) == (120, 120)
