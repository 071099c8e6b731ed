"""What was accepted for somebody who is not there when its time comes (FAULTS.md F37)."""

import time
from datetime import UTC, datetime, timedelta

from schemas.delivery import Cause, State
from tests.support.town import OPERATOR, Town, all_final
from tests.support.waiting import until
from workers.bus.client import TenantClient

SOON = 0.6


async def soon(acme: TenantClient, agent: str, number: int) -> str:
    """A message that waits in its mailbox for a moment."""
    due = datetime.now(UTC) + timedelta(seconds=SOON)
    message = {"to": {"agent": agent}, "content": f"[[say ok]] {number}", "not_before": due}
    return (await acme.publish(message)).message_id


async def test_an_agent_deleted_between_publish_and_deliver_is_refused_after_one_call(acme_town: Town) -> None:
    """And the order of another's messages does not suffer."""
    gone, stays = acme_town.add_agent("gone"), acme_town.add_agent("stays")
    async with acme_town.of() as acme:
        for name in ("gone", "stays"):
            await acme.ask(name, "warm", within=10)
        lost = [await soon(acme, "gone", number) for number in range(3)]
        kept = [await soon(acme, "stays", number) for number in range(5)]
        del acme_town.sandbox.world.agents[gone.id]
        refused, delivered = await all_final(acme, lost), await all_final(acme, kept)

    assert {(one.state, one.cause) for one in refused} == {(State.REFUSED, Cause.UNKNOWN_AGENT)}
    assert all(one.deliveries[0].attempts <= 1 for one in refused)
    assert len(acme_town.turns(gone)) == 1
    assert {one.state for one in delivered} == {State.DELIVERED}
    assert [turn["content_head"] for turn in acme_town.turns(stays)][1:] == [f"[[say ok]] {n}" for n in range(5)]


async def test_a_suspended_tenant_gets_nothing_and_then_everything_in_order(acme_town: Town) -> None:
    agent = acme_town.add_agent("echo")
    async with acme_town.of() as acme:
        ids = [await soon(acme, "echo", number) for number in range(4)]
        await acme_town.tenants.suspend(OPERATOR, "acme", suspended=True)
        past = time.monotonic() + 2 * SOON
        await until(lambda: time.monotonic() > past)
        assert acme_town.turns(agent) == []
        await acme_town.tenants.suspend(OPERATOR, "acme", suspended=False)
        receipts = await all_final(acme, ids)

    assert {one.state for one in receipts} == {State.DELIVERED}
    assert [turn["content_head"] for turn in acme_town.turns(agent)] == [f"[[say ok]] {n}" for n in range(4)]
