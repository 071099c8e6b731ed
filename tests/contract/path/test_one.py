"""One message to one agent, through the real processes: what the sender is told is what the agent's server holds."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas.address import QueueAddress, StreamAddress
from schemas.context import Context
from schemas.delivery import Cause, State
from schemas.receipt import Receipt
from tests.contract.path.place import Place, fresh
from tests.support.waiting import until
from workers.bus.replies import read_replies

pytestmark = pytest.mark.processes

TOOL = "conversation_search"
SOON_SECONDS = 1.5


def causes(receipt: Receipt) -> set[Cause | None]:
    return {step.cause for step in receipt.deliveries[0].history}


async def test_each_agent_hears_each_message_once_and_in_order(place: Place) -> None:
    agents = {name: await place.agent(name) for name in ("writer", "editor")}
    texts = {name: [f"{fresh(name)} [[say {name} {number}]]" for number in range(3)] for name in agents}
    sent = [(name, text, await place.acme.send(name, text)) for name in agents for text in texts[name]]
    receipts = await place.ends(*(one.message_id for _, _, one in sent))

    assert [receipt.reply for receipt in receipts] == [f"{name} {n}" for name in agents for n in range(3)]
    for receipt in receipts:
        [delivery] = receipt.deliveries
        assert (delivery.state, delivery.attempts, delivery.stop_reason) == (State.DELIVERED, 1, "end_turn")
        assert delivery.total_tokens
        assert bool(delivery.run_id) is place.ground.tells
    for name, agent_id in agents.items():
        assert await place.heard(agent_id) == texts[name]


async def test_an_agent_that_is_busy_with_somebody_elses_turn_gets_its_message_after_it(place: Place) -> None:
    """Where the server locks: it says 409, and no attempt is spent."""
    if not place.joins:
        pytest.skip(f"{place.ground.url} has no Redis, and so no lock")
    agent_id = await place.agent("writer")
    theirs, ours = f"{fresh('theirs')} [[delay 2]] [[say theirs]]", f"{fresh('ours')} [[say ours]]"
    stream: Any = await place.letta.conversations.messages.create(
        "default",
        agent_id=agent_id,
        streaming=True,
        background=True,
        messages=[{"role": "user", "content": theirs, "otid": fresh("otid")}],
    )
    await until(lambda: place.has_begun(theirs), within=20)
    sent = await place.acme.send("writer", ours)
    [receipt] = await place.ends(sent.message_id)
    await stream.response.aclose()

    assert (receipt.reply, receipt.deliveries[0].attempts) == ("ours", 1)
    assert Cause.BUSY in causes(receipt)
    assert await place.heard(agent_id) == [theirs, ours]


async def test_a_failing_model_costs_attempts_and_leaves_nothing_twice(place: Place) -> None:
    """The server itself asks the model three times in each attempt."""
    agent_id = await place.agent("writer")
    mended = f"{fresh('mended')} [[status 500 x3]] [[say at last]]"
    never = f"{fresh('never')} [[status 500]]"
    after = f"{fresh('after')} [[say fine]]"
    sent = [await place.acme.send("writer", text) for text in (mended, never, after)]
    at_last, dead, fine = await place.ends(*(one.message_id for one in sent))

    assert (at_last.state, at_last.reply, at_last.deliveries[0].attempts) == (State.DELIVERED, "at last", 2)
    assert (dead.state, dead.cause, dead.deliveries[0].attempts) == (State.DEAD, Cause.ATTEMPTS, 2)
    assert "Error code: 500" in (dead.deliveries[0].detail or "")
    assert (fine.state, fine.reply) == (State.DELIVERED, "fine")
    assert await place.heard(agent_id) == [mended, after]


async def test_an_agent_that_waits_for_approval_keeps_its_messages_waiting(place: Place) -> None:
    """At no cost, and at most half a minute longer than the approval: so long the agent is left alone."""
    agent_id = await place.agent("writer", tools=[TOOL], tool_rules=[{"type": "requires_approval", "tool_name": TOOL}])
    asks = f'{fresh("asks")} [[tool {TOOL} {{"query": "x"}}]] [[say approved]]'
    waits = f"{fresh('waits')} [[say went on]]"
    first = await place.acme.send("writer", asks)
    [stopped] = await place.ends(first.message_id)
    second = await place.acme.send("writer", waits)

    async def is_held() -> bool:
        return (await place.acme.receipt(second.message_id)).deliveries[0].cause is Cause.APPROVAL

    async def dispatched() -> bool:
        return bool((await place.acme.receipt(second.message_id)).deliveries)

    await until(dispatched, within=20)
    await until(is_held, within=20)
    assert (stopped.state, stopped.deliveries[0].stop_reason) == (State.DELIVERED, "requires_approval")
    assert await place.heard(agent_id) == [asks]
    if not place.joins:
        # Half a minute's wait, and nothing about it is another than where the server joins.
        await place.acme.cancel(second.message_id)
        return
    pending: Any = (await place.letta.agents.retrieve(agent_id, include=["agent.pending_approval"])).pending_approval
    approval = {"type": "approval", "tool_call_id": pending.tool_call.tool_call_id, "approve": True}
    answer: list[Any] = [{"type": "approval", "approvals": [approval]}]
    await place.letta.agents.messages.create(agent_id, messages=answer)
    [receipt] = await place.ends(second.message_id)

    assert (receipt.state, receipt.reply, receipt.deliveries[0].attempts) == (State.DELIVERED, "went on", 1)
    assert await place.heard(agent_id) == [asks, waits]


async def test_an_agent_deleted_between_publish_and_delivery_is_refused(place: Place) -> None:
    agent_id = await place.agent("writer")
    await place.ends((await place.acme.send("writer", "[[say warm]]")).message_id)
    due = datetime.now(UTC) + timedelta(seconds=SOON_SECONDS)
    sent = [await place.acme.send("writer", f"number {number}", not_before=due) for number in range(2)]
    await place.delete(agent_id)
    receipts = await place.ends(*(one.message_id for one in sent))

    assert {(one.state, one.cause) for one in receipts} == {(State.REFUSED, Cause.UNKNOWN_AGENT)}
    assert all(one.deliveries[0].attempts <= 1 for one in receipts)


async def test_replies_go_where_the_sender_reads_them(place: Place) -> None:
    await place.agent("writer")
    context = Context(tenant=place.tenant, principal="test", roles=frozenset())
    for address in (StreamAddress(stream="crm"), QueueAddress(queue="jobs")):
        sent = await place.acme.send("writer", "[[say sent on]]", reply_to=address)
        await place.ends(sent.message_id)
        [posted] = await read_replies(context, place.redis, address, limit=5)
        assert (posted.reply.state, posted.reply.text) == (State.DELIVERED, "sent on")
        assert posted.reply.correlation_id == sent.message_id


async def test_a_tenant_made_anew_is_not_answered_with_what_the_old_one_heard(place: Place) -> None:
    """The same name, agent and message id: a server that joins by otid must not take the turn for the old one."""
    agent_id = await place.agent("writer")
    old, new = f"{fresh('old')} [[say to the old]]", f"{fresh('new')} [[say to the new]]"
    [before] = await place.ends((await place.acme.send("writer", old, id="greeting-1")).message_id)
    ran = await place.postroom("tenant", "delete", place.tenant, "--confirm", place.tenant)
    assert ran.returncode == 0, ran.stderr

    await place.is_left()
    await place.register()
    [after] = await place.ends((await place.acme.send("writer", new, id="greeting-1")).message_id)

    assert (before.reply, after.reply) == ("to the old", "to the new")
    assert await place.heard(agent_id) == [old, new]
