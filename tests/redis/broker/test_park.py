"""Park: an agent is left alone with its mailbox, by a person or by itself, until somebody unparks it."""

import pytest

from schemas.delivery import Cause, State
from tests.redis.broker.shorthand import crash, events, letters, sweep, take_one, with_rules
from tests.support.ledger import Ledger, agent_id
from workers.broker.rules import PARKED_MS

ONE, TWO = agent_id(1), agent_id(2)
YEAR_MS = 365 * 86_400_000


async def park(ledger: Ledger, agent: str = ONE, why: str = "it loops") -> str:
    return await ledger.scripts.park(ledger.context, agent=agent, by="cli:ops", why=why)


async def unpark(ledger: Ledger, agent: str = ONE) -> tuple[str, int]:
    return await ledger.scripts.unpark(ledger.context, agent=agent)


async def parked(ledger: Ledger, agent: str = ONE) -> list[str]:
    """When, by whom, and why."""
    found = await ledger.client.hget(f"{ledger.keys.root}parked", agent)
    return found.decode().split("|", 2) if found else []


async def failures(ledger: Ledger, agent: str = ONE) -> int:
    return int(await ledger.client.hget(f"{ledger.keys.root}failures", agent) or 0)


async def die(ledger: Ledger, name: str, cause: Cause = Cause.ATTEMPTS, agent: str = ONE) -> str:
    """One message to the agent that ends as a dead letter; what its settlement answered."""
    await ledger.send(name, agent)
    return await ledger.settle(await take_one(ledger), State.DEAD, cause, detail=f"{name} failed")


async def test_a_parked_agent_keeps_its_mailbox_and_others_go_on(ledger: Ledger) -> None:
    await ledger.send("m1", ONE)
    await ledger.send("m2", TWO)

    assert await park(ledger) == "parked"

    assert await ledger.take_ids() == ["m2:1"]
    assert await ledger.state("m1:1") == "waiting"
    assert await parked(ledger) == [str(ledger.time.now_ms), "cli:ops", "it loops"]


async def test_it_goes_on_when_it_is_unparked_and_somebody_looks_at_once(ledger: Ledger) -> None:
    await ledger.send("m1")
    await park(ledger)
    assert await ledger.take_ids() == []

    assert await unpark(ledger) == ("unparked", ledger.time.now_ms)

    assert await parked(ledger) == []
    assert await ledger.take_ids() == ["m1:1"]


async def test_parking_twice_keeps_the_first_reason_and_unparking_twice_says_so(ledger: Ledger) -> None:
    assert await park(ledger, why="first | of all") == "parked"
    assert await park(ledger, why="second") == "already"
    assert (await parked(ledger))[2] == "first | of all"

    assert (await unpark(ledger))[0] == "unparked"
    assert await unpark(ledger) == ("not_parked", 0)


async def test_a_running_turn_comes_to_its_end(ledger: Ledger) -> None:
    await ledger.send("m1")
    await ledger.send("m2")
    running = await take_one(ledger)

    await park(ledger)

    assert await ledger.settle(running) == "settled"
    assert await ledger.state("m1:1") == "delivered"
    assert await ledger.take_ids() == []


async def test_nobody_is_woken_for_a_parked_agent_and_no_time_frees_it(ledger: Ledger) -> None:
    await park(ledger)
    answer = await ledger.send("m1")
    assert answer.next_look_ms == 0
    assert await sweep(ledger) == (0, set())

    await ledger.time.advance(ms=YEAR_MS)

    assert await ledger.take_ids() == []
    assert (await ledger.take()).next_look_ms == 0


async def test_a_shorter_hold_neither_replaces_nor_shortens_it(ledger: Ledger) -> None:
    await ledger.send("m1")
    running = await take_one(ledger)
    await park(ledger)

    await ledger.settle(running, State.WAITING, Cause.BUSY, hold="agent", hold_ms=1_000)

    assert await ledger.client.hget(ledger.keys.holds, ONE) == f"{PARKED_MS}|parked".encode()
    assert await ledger.scripts.lift(ledger.context) == (0, 0)
    await ledger.time.advance(ms=2_000)
    assert await ledger.take_ids() == []


async def test_a_hold_from_before_is_over_when_it_is_unparked(ledger: Ledger) -> None:
    """Whether it is still busy its next turn finds out, at no cost; rate windows are looked at anew."""
    await ledger.register(agent_per_minute=1)
    await ledger.send("m1")
    await ledger.send("m2")
    await ledger.settle(await take_one(ledger))
    assert await ledger.take_ids() == []

    await park(ledger)
    await unpark(ledger)

    assert await ledger.take_ids() == []
    assert (await ledger.client.hget(ledger.keys.holds, ONE)).endswith(b"|rate_agent")


async def test_what_waits_for_a_parked_agent_still_expires_and_can_be_cancelled(ledger: Ledger) -> None:
    await park(ledger)
    expiring = await ledger.send("m1", expires_in_ms=1_000)
    await ledger.send("m2")

    assert expiring.next_look_ms == ledger.time.now_ms + 1_000
    assert (await ledger.scripts.cancel(ledger.context, message_id="m2")).results == (("m2:1", "cancelled"),)
    await ledger.time.advance(ms=1_001)
    await sweep(ledger)

    assert await ledger.state("m1:1") == "expired"


async def test_a_redrive_to_a_parked_agent_waits(ledger: Ledger) -> None:
    await die(ledger, "m1")
    await park(ledger)
    [entry] = [id_.decode() for id_, _ in await ledger.client.xrange(ledger.keys.dead)]

    answer = await ledger.scripts.redrive(ledger.context, entry_id=entry, ttl_ms=None)

    assert (answer.status, answer.next_look_ms) == ("redriven", 0)
    assert await ledger.take_ids() == []
    await unpark(ledger)
    assert await ledger.take_ids() == ["m1:1"]


async def test_a_broken_history_parks_the_agent_and_gives_the_message_back_unspent(ledger: Ledger) -> None:
    await ledger.send("m1")
    await ledger.send("m2")
    taken = await take_one(ledger)

    result = await ledger.settle(
        taken, State.WAITING, Cause.PARKED, hold="parked", refund=True, detail="400 | tool_use ids"
    )

    assert result == "parked"
    assert (await parked(ledger))[1:] == ["worker", "400 | tool_use ids"]
    assert [await ledger.field("m1:1", name) for name in ("state", "cause", "attempt", "fate")] == [
        "waiting",
        "parked",
        "0",
        None,
    ]
    assert await letters(ledger) == []
    assert (await events(ledger))[-1] == ("m1:1", "waiting", "parked")
    assert await ledger.take_ids() == []
    await unpark(ledger)
    again = await take_one(ledger)
    assert (again.id, again.attempt, again.fate_open) == ("m1:1", 1, False)


@pytest.mark.parametrize("cause", [Cause.ATTEMPTS, Cause.REJECTED])
async def test_so_many_dead_letters_in_a_row_park_the_agent(ledger: Ledger, cause: Cause) -> None:
    ledger = with_rules(ledger, park_after=3)

    assert [await die(ledger, f"m{number}", cause) for number in range(3)] == ["settled", "settled", "parked"]

    assert (await parked(ledger))[1:] == ["worker", "m2 failed"]
    await ledger.send("next")
    assert await ledger.take_ids() == []


async def test_one_that_is_delivered_in_between_starts_the_count_anew(ledger: Ledger) -> None:
    ledger = with_rules(ledger, park_after=2)
    await die(ledger, "m1")
    await ledger.send("good")
    await ledger.settle(await take_one(ledger))
    assert await failures(ledger) == 0

    assert await die(ledger, "m2") == "settled"
    assert await parked(ledger) == []


async def test_each_agent_has_a_count_of_its_own(ledger: Ledger) -> None:
    ledger = with_rules(ledger, park_after=2)
    await die(ledger, "m1", agent=ONE)
    assert await die(ledger, "m2", agent=TWO) == "settled"
    assert await die(ledger, "m3", agent=TWO) == "parked"
    assert await parked(ledger, ONE) == []


async def test_poison_counts_like_any_other_dead_letter(ledger: Ledger) -> None:
    ledger = with_rules(ledger, park_after=2, max_crashes=1)
    for name in ("m1", "m2", "m3"):
        await ledger.send(name)
    for _ in range(2):
        await take_one(ledger)
        await crash(ledger)

    assert [await ledger.field(f"{name}:1", "cause") for name in ("m1", "m2")] == ["poison", "poison"]
    assert (await parked(ledger))[2] == "its worker fell silent 1 times"
    assert await ledger.take_ids() == []


async def test_unparking_forgets_the_count(ledger: Ledger) -> None:
    ledger = with_rules(ledger, park_after=2)
    await die(ledger, "m1")
    await die(ledger, "m2")
    await unpark(ledger)
    assert await failures(ledger) == 0
    assert await die(ledger, "m3") == "settled"


async def test_zero_never_parks_for_dead_letters(ledger: Ledger) -> None:
    ledger = with_rules(ledger, park_after=0)
    assert {await die(ledger, f"m{number}") for number in range(8)} == {"settled"}
    assert (await failures(ledger), await parked(ledger)) == (8, [])
