"""An agent whose stored history the model refuses is parked; what only the message is to blame for parks nobody.

The history is broken the way it happens: the agent's context loses a tool's result, and mended by giving it back.
"""

import pytest

from schemas.delivery import Cause, State
from tests.contract.path.model import OVERFLOW
from tests.contract.path.place import Place, fresh
from tests.support.waiting import until
from workers.broker import keys

pytestmark = pytest.mark.processes

TOOL = "conversation_search"
LOST = ("tool_return_message", "tool_call_message")


@pytest.mark.parametrize("lost", LOST)
async def test_an_agent_with_a_broken_history_is_parked_until_it_is_mended(place: Place, lost: str) -> None:
    agent_id = await place.agent("writer", tools=[TOOL])
    used = f'{fresh("used")} [[tool {TOOL} {{"query": "x"}}]] [[say used]]'
    [before] = await place.ends((await place.acme.send("writer", used)).message_id)
    assert before.reply == "used"
    whole = (await place.letta.agents.retrieve(agent_id)).message_ids
    assert whole is not None
    listed = place.letta.agents.messages.list(agent_id, order="asc", limit=100)
    gone = {each.id async for each in listed if each.message_type == lost}
    assert len(gone) == 1
    await place.letta.agents.update(agent_id, message_ids=[one for one in whole if one not in gone])

    texts = [f"{fresh('text')} [[say {number}]]" for number in range(2)]
    sent = [await place.acme.send("writer", text) for text in texts]
    parked = keys.TenantKeys(place.tenant).parked
    await until(lambda: place.redis.hexists(parked, agent_id), within=30)
    [waits] = (await place.acme.receipt(sent[0].message_id)).deliveries
    assert (waits.state, waits.cause, waits.attempts) == (State.WAITING, Cause.PARKED, 0)
    assert "Error code: 400" in (waits.detail or "")
    assert await place.heard(agent_id) == [used]

    await place.letta.agents.update(agent_id, message_ids=whole)
    ran = await place.postroom("agent", "unpark", "writer", "-t", place.tenant)
    assert ran.returncode == 0, ran.stderr
    receipts = await place.ends(*(one.message_id for one in sent))
    assert [receipt.reply for receipt in receipts] == ["0", "1"]
    assert await place.heard(agent_id) == [used, *texts]


async def test_a_message_that_the_model_refuses_parks_nobody(place: Place) -> None:
    agent_id = await place.agent("writer")
    refused = ["[[status 400]] a bad request", *([f"{OVERFLOW} too long"] if place.ground.real else [])]
    for text in refused:
        [receipt] = await place.ends((await place.acme.send("writer", f"{fresh('text')} {text}")).message_id)
        assert (receipt.state, receipt.cause) == (State.DEAD, Cause.REJECTED)
        assert receipt.deliveries[0].attempts == 1
    [fine] = await place.ends((await place.acme.send("writer", "[[say fine]]")).message_id)

    assert fine.reply == "fine"
    assert not await place.redis.exists(keys.TenantKeys(place.tenant).parked)
    assert await place.heard(agent_id) == ["[[say fine]]"]
