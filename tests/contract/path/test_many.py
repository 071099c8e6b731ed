"""One message to many agents, through the real processes; each agent's own messages tell how often it came."""

import asyncio
from typing import Any

import pytest

from schemas.address import SelectorAddress
from schemas.delivery import State
from tests.contract.path.place import Place, fresh
from tests.support.waiting import until

pytestmark = pytest.mark.processes

ROLE = "role:many"
REAL_AGENTS, AGENTS = 60, 24
AT_ONCE = 8
SLOW_SECONDS, DEADLINE_SECONDS = 3.0, 1.5
REAL_TIMES = 3
"""A real server answers later, the more so beside other work."""


async def make_many(place: Place, number: int) -> list[str]:
    """So many agents with the role, a few at a time."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(index: int) -> str:
        async with gate:
            return await place.agent(f"many-{index:03}", ROLE)

    return list(await asyncio.gather(*(one(index) for index in range(number))))


async def test_a_pool_killed_in_the_middle_of_a_send_to_many_doubles_nothing(place: Place) -> None:
    """kill -9 in mid-turn, and another pool: every agent heard it once, as its own messages tell.

    Where the server shows no runs nobody can tell of the turns that were cut, and the sender wants no second copy.
    """
    ids = await make_many(place, REAL_AGENTS if place.ground.real else AGENTS)
    text = f"{fresh('notice')} [[delay 0.5]] [[say noted]]"
    on_unknown = "redeliver" if place.ground.tells else "never_resend"
    to = SelectorAddress(tags=(ROLE,), at_most=len(ids))
    sent = await place.acme.send(to, text, on_unknown=on_unknown)
    await until(lambda: place.has_begun(text) >= AT_ONCE // 2, within=30)
    place.ground.fleet.kill("pool")
    begun = place.has_begun(text)
    place.ground.fleet.start_pool()
    [receipt] = await place.ends(sent.message_id)
    heard = {agent_id: await place.heard(agent_id) for agent_id in ids}

    assert receipt.recipients == len(ids)
    assert begun > 0
    assert all(texts == [text] for texts in heard.values())
    if place.ground.tells:
        assert receipt.ends == {State.DELIVERED: len(ids)}
    else:
        assert set(receipt.ends) <= {State.DELIVERED, State.UNKNOWN}
        assert sum(receipt.ends.values()) == len(ids)
        assert receipt.ends.get(State.UNKNOWN, 0) <= begun
    if not place.ground.real:
        assert place.has_begun(text) == len(ids)


async def test_a_teams_replies_are_gathered_all_or_so_many_or_in_time(place: Place) -> None:
    times = REAL_TIMES if place.ground.real else 1
    for number, slow_seconds in enumerate((0.0, 0.0, SLOW_SECONDS)):
        await place.agent(f"editor-{number}", "team:editorial", slow_seconds=slow_seconds * times)
    await place.agent("elsewhere")
    want: Any
    for want, within, complete in (("all", 60, True), (2, 60, True), ("all", DEADLINE_SECONDS * times, False)):
        text = f"{fresh('what')} [[say yes]]"
        found = await place.acme.gather("editorial", text, within=within, want=want, expires_in=60)
        late = await place.acme.wait(found.message_id, within=60)

        assert found.complete is complete
        assert {reply.text for reply in found.replies} == {"yes"}
        if want == "all" and complete:
            assert sorted(reply.who for reply in found.replies) == ["editor-0", "editor-1", "editor-2"]
        else:
            assert {reply.who for reply in found.replies} == {"editor-0", "editor-1"}
            assert [one.who for one in found.missing] == ["editor-2"]
        assert late.ends == {State.DELIVERED: 3}
        assert late.gathered == frozenset(reply.delivery_id for reply in found.replies)


async def test_an_imported_copy_is_named_in_the_preview(place: Place) -> None:
    original = await place.agent("support", "role:support", "env:prod")
    other = await place.agent("billing", "role:support", "env:test")
    copy = await place.copy(original)
    shown = await place.document("send", "--tags", "role:support,env:prod", "hello", "-t", place.tenant, "--dry-run")

    assert {one["id"] for one in shown["agents"]} == {original, copy}
    assert other not in str(shown["agents"])
    assert shown["copies"] == [{"copy": copy, "original": original}]
    assert {one["name"] for one in shown["agents"]} == {"support", "support_copy"}
    assert await place.heard(original) == await place.heard(copy) == []
