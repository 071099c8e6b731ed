"""One message to many, through every part: teams, gathered replies, selections, pause and resume."""

from collections import Counter
from collections.abc import AsyncIterator

import pytest

from schemas.address import AgentAddress, SelectorAddress, TeamAddress
from schemas.delivery import Cause, State
from schemas.envelope import Gather
from tests.support.town import OPERATOR, Town
from tests.support.waiting import until
from workers.bus.client import TenantClient
from workers.bus.door import Refusal
from workers.errors import RefusedError, TooLateError
from workers.mailbox.audit import audit

ALL = SelectorAddress(tags=("role:many",), at_most=1000)


@pytest.fixture
async def acme(acme_town: Town) -> AsyncIterator[TenantClient]:
    async with acme_town.of() as opened:
        yield opened


def editorial(town: Town, *latencies: float) -> None:
    for number, latency in enumerate(latencies):
        town.add_agent(f"editor-{number}", "acme", "team:editorial", f"role:{number}", latency_seconds=latency)


async def is_clean(town: Town) -> None:
    assert await audit(OPERATOR.for_tenant("acme"), town.client, town.processes[0].resources.clock) == []


async def test_a_team_gets_one_message_each_and_one_receipt_tells_of_all(acme_town: Town, acme: TenantClient) -> None:
    editorial(acme_town, 0, 0, 0)
    acme_town.add_agent("elsewhere", "globex", "team:editorial")
    sent = await acme.send(TeamAddress(team="editorial"), "[[say seen]]")
    receipt = await acme.wait(sent.message_id, within=20)

    assert receipt.state is State.DELIVERED
    assert (receipt.recipients, receipt.open, receipt.ends) == (3, 0, {State.DELIVERED: 3})
    assert sorted(one.agent_name or "" for one in receipt.deliveries) == ["editor-0", "editor-1", "editor-2"]
    assert {one.reply for one in receipt.deliveries} == {"seen"}
    assert len(acme_town.turns()) == 3
    await is_clean(acme_town)


async def test_replies_are_gathered_as_one(acme_town: Town, acme: TenantClient) -> None:
    editorial(acme_town, 0, 0.1, 0.2)
    found = await acme.gather("editorial", "[[say yes]]", within=20)

    assert found.complete
    assert [reply.who for reply in found.replies] == ["editor-0", "editor-1", "editor-2"]
    assert [reply.text for reply in found.replies] == ["yes"] * 3
    assert found.missing == ()
    assert found.closed_at_ms
    await is_clean(acme_town)


async def test_so_many_replies_as_are_wanted_are_enough(acme_town: Town, acme: TenantClient) -> None:
    """The one that comes later is in the receipt, and not in what was gathered."""
    editorial(acme_town, 0, 0, 1.0)
    found = await acme.gather("editorial", "[[say yes]]", within=20, want=2)

    assert found.complete
    assert {reply.who for reply in found.replies} == {"editor-0", "editor-1"}
    assert [(one.who, one.state) for one in found.missing] == [("editor-2", State.RUNNING)]
    late = await acme.wait(found.message_id, within=20)
    assert late.ends == {State.DELIVERED: 3}
    assert late.gathered == frozenset(reply.delivery_id for reply in found.replies)


async def test_what_has_come_by_the_deadline_is_gathered(acme_town: Town, acme: TenantClient) -> None:
    editorial(acme_town, 0, 3.0)
    acme_town.add_agent("broken", "acme", "team:editorial", fail_status=400, fail_where="llm")
    found = await acme.gather("editorial", "[[say yes]]", within=1.5, expires_in=30)

    assert not found.complete
    assert [reply.who for reply in found.replies] == ["editor-0"]
    assert {one.who: one.state for one in found.missing} == {"editor-1": State.RUNNING, "broken": State.DEAD}
    late = await acme.wait(found.message_id, within=20)
    assert late.ends == {State.DELIVERED: 2, State.DEAD: 1}
    assert late.gathered == frozenset({found.replies[0].delivery_id})
    await is_clean(acme_town)


async def test_gathered_replies_go_on_to_an_agent_as_one_message(acme_town: Town, acme: TenantClient) -> None:
    editorial(acme_town, 0, 0)
    chief = acme_town.add_agent("chief")
    sent = await acme.send(TeamAddress(team="editorial"), "[[say fine]]", gather=Gather(within=20), reply_to="chief")
    await until(lambda: acme_town.turns(chief), 20)

    receipt = await acme.receipt(sent.message_id)
    assert receipt.reply_message_id
    onward = await acme.wait(receipt.reply_message_id, within=20)
    assert (onward.recipients, onward.state) == (1, State.DELIVERED)
    assert len(acme_town.turns(chief)) == 1
    assert [one.reply_message_id for one in receipt.deliveries] == [None, None]


async def test_a_team_that_is_none_is_told_to_who_gathers(acme_town: Town, acme: TenantClient) -> None:
    acme_town.add_agent("somebody")
    with pytest.raises(RefusedError, match="no such team"):
        await acme.gather("nobody", "hello", within=5)


async def test_a_selection_gets_it_once_each_and_stuck_agents_delay_nobody(acme_town: Town, acme: TenantClient) -> None:
    for number in range(80):
        stuck = number < 20
        acme_town.add_agent(f"many-{number}", "acme", "role:many", latency_seconds=30 if stuck else 0)
    acme_town.add_agent("CANARY-many", "acme", "role:many")
    sent = await acme.send(ALL, "[[say ok]]", expires_in=60)
    await until(lambda: _delivered(acme, sent.message_id, 60), 30)

    receipt = await acme.bulk.show(sent.message_id)
    assert (receipt.recipients, receipt.open, receipt.state) == (80, 20, State.WAITING)
    begun = Counter(turn["agent"] for turn in acme_town.turns())
    assert set(begun.values()) == {1}
    taken_back = await acme.bulk.cancel(sent.message_id)
    assert taken_back.cancelled + taken_back.late[State.RUNNING] == 20
    assert taken_back.late[State.DELIVERED] == 60
    await is_clean(acme_town)


async def _delivered(acme: TenantClient, message_id: str, number: int) -> bool:
    return (await acme.bulk.show(message_id)).ends.get(State.DELIVERED, 0) >= number


async def test_a_bulk_send_is_paused_resumed_and_taken_back(acme_town: Town, acme: TenantClient) -> None:
    for number in range(30):
        acme_town.add_agent(f"many-{number}", "acme", "role:many")
    sent = await acme.send(ALL, "[[say ok]]", id="bulk-1")
    paused = await acme.bulk.pause(sent.message_id)
    assert paused.paused_at_ms
    begun = len(acme_town.turns())
    other = await acme.ask("many-29", "[[say other]]", within=20)
    assert other.state is State.DELIVERED

    assert [one.message_id for one in await acme.bulk.list()] == ["bulk-1"]
    resumed = await acme.bulk.resume(sent.message_id)
    assert resumed.paused_at_ms is None
    receipt = await acme.wait(sent.message_id, within=20)
    assert receipt.ends == {State.DELIVERED: 30}
    assert len(acme_town.turns()) == 31 >= begun
    with pytest.raises(TooLateError):
        await acme.cancel(sent.message_id)
    with pytest.raises(TooLateError):
        await acme.bulk.pause(sent.message_id)
    assert len([one async for one in acme.bulk.deliveries(sent.message_id)]) == 30
    await is_clean(acme_town)


async def test_a_selection_of_more_than_was_meant_is_refused_whole(acme_town: Town, acme: TenantClient) -> None:
    for number in range(3):
        acme_town.add_agent(f"many-{number}", "acme", "role:many")
    sent = await acme.send(SelectorAddress(name="many-*", at_most=2), "hello")
    receipt = await acme.wait(sent.message_id, within=20)

    assert (receipt.state, receipt.cause) == (State.REFUSED, Cause.TOO_MANY_RECIPIENTS)
    assert acme_town.turns() == []


async def test_only_an_operator_sends_to_everybody(acme_town: Town, acme: TenantClient) -> None:
    acme_town.add_agent("one")
    with pytest.raises(Refusal, match="only an operator may"):
        await acme.send(SelectorAddress(name="*"), "hello")
    async with TenantClient.open(acme_town.server.url, tenant="acme", operator=True) as operator:
        sent = await operator.send(SelectorAddress(name="*"), "[[say all]]")
        assert (await operator.wait(sent.message_id, within=20)).ends == {State.DELIVERED: 1}


async def test_an_agent_deleted_after_the_snapshot_is_refused_and_the_others_go_on(
    acme_town: Town, acme: TenantClient
) -> None:
    agents = [acme_town.add_agent(f"many-{number}", "acme", "role:many") for number in range(4)]
    assert (await acme.ask("many-0", "[[say warm]]", within=20)).state is State.DELIVERED
    del acme_town.sandbox.world.agents[agents[3].id]
    before = len(acme_town.turns())
    sent = await acme.send(ALL, "[[say ok]]")
    receipt = await acme.wait(sent.message_id, within=20)

    assert receipt.ends == {State.DELIVERED: 3, State.REFUSED: 1}
    refused = next(one for one in receipt.deliveries if one.state is State.REFUSED)
    assert (refused.agent, refused.cause) == (agents[3].id, Cause.UNKNOWN_AGENT)
    assert refused.attempts <= 1
    assert len(acme_town.turns()) - before == 3
    assert (await acme.ask("many-1", "[[say on]]", within=20)).reply == "on"
    await is_clean(acme_town)


async def test_an_address_object_is_as_good_as_a_name(acme_town: Town, acme: TenantClient) -> None:
    acme_town.add_agent("one")
    sent = await acme.send(AgentAddress(agent="one"), "[[say hello]]")
    assert (await acme.wait(sent.message_id, within=20)).reply == "hello"
