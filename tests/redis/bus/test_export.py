"""A tenant is written out whole: every kind of record, the raw bytes of letters, and an end that counts."""

import base64
import json
from typing import Any

from schemas.delivery import Cause, State
from schemas.tenant import Limits, Tenant
from tests.support.ledger import OWNER, Ledger, agent_id
from workers.bus import export
from workers.bus.export import Export

TENANT = Tenant(id="acme", limits=Limits())


async def a_tenant(ledger: Ledger) -> None:
    client, root = ledger.client, ledger.keys.root
    await ledger.send("m1")
    [taken] = (await ledger.take()).taken
    await ledger.settle(taken, reply="the reply")
    await ledger.send("m2", agent_id(2))
    [taken] = (await ledger.take()).taken
    await ledger.settle(taken, State.DEAD, Cause.ATTEMPTS)
    refused = (await client.xadd(ledger.keys.tasks, {"message": b"\xff odd"})).decode()
    await ledger.scripts.refuse(
        ledger.context, owner=OWNER, entry_id=refused, message_id="m3", cause=Cause.INVALID, detail="odd"
    )
    await client.xadd(ledger.keys.tasks, {"message": b"\xfe waits"})
    await client.hset(f"{root}teams", "desk", '{"name":"desk"}')
    await client.hset(f"{root}parked", agent_id(4), "1|ops|broken")
    await client.hset(f"{root}agents", mapping={"*": 1, agent_id(1): json.dumps({"id": agent_id(1), "name": "one"})})
    await client.xadd(f"{root}out:news", {"message": "for a reader"})
    await client.rpush(f"{root}callback:job", "for one reader")


async def exported(ledger: Ledger, *, content: bool = True) -> list[dict[str, Any]]:
    lines = Export(ledger.context, ledger.client, content=content).lines(TENANT, at_ms=5)
    return [json.loads(line.model_dump_json()) async for line in lines]


async def test_every_kind_of_record_is_there(ledger: Ledger, monkeypatch: Any) -> None:
    """Read in pages of one, to cross every edge."""
    monkeypatch.setattr(export, "PAGE", 1)
    await a_tenant(ledger)
    header, tenant, *lines, end = await exported(ledger)
    kinds = [line["kind"] for line in lines]

    assert (header["kind"], header["version"], header["tenant"]) == ("header", 1, "acme")
    assert tenant["counters"]["delivered"] == 1
    assert end["kind"] == "end"
    assert end["counts"] == {kind: kinds.count(kind) for kind in kinds}
    assert set(kinds) == {"team", "parked", "agent", "message", "letter", "event", "entry", "reply"}
    messages = {line["receipt"]["message_id"]: line["receipt"] for line in lines if line["kind"] == "message"}
    assert set(messages) == {"m1", "m2", "m3"}
    assert messages["m1"]["deliveries"][0]["reply"] == "the reply"
    assert len(messages["m1"]["deliveries"][0]["history"]) == 3
    letters = {line["letter"]["message_id"]: line for line in lines if line["kind"] == "letter"}
    assert base64.b64decode(letters["m3"]["raw"]) == b"\xff odd"
    [entry] = [line for line in lines if line["kind"] == "entry"]
    assert base64.b64decode(entry["fields"]["message"]) == b"\xfe waits"
    assert {line["where"] for line in lines if line["kind"] == "reply"} == {"out:news", "callback:job"}
    assert kinds.count("event") == await ledger.client.xlen(ledger.keys.events)


async def test_without_content_nothing_is_there_that_somebody_wrote(ledger: Ledger) -> None:
    await a_tenant(ledger)
    text = json.dumps(await exported(ledger, content=False))

    assert "m1" in text
    for written in (
        "the reply",
        "hello",
        base64.b64encode(b"\xff odd").decode(),
        base64.b64encode(b"for a reader").decode(),
    ):
        assert written not in text


async def test_every_delivery_of_a_message_to_many_is_there(ledger: Ledger) -> None:
    """A receipt tells of the first ones only."""
    await ledger.publish("many")
    await ledger.dispatch("many", *(agent_id(number) for number in range(1, 121)))
    lines = await exported(ledger)
    told = [one["id"] for line in lines if line["kind"] == "message" for one in line["receipt"]["deliveries"]]
    more = [line["delivery"]["id"] for line in lines if line["kind"] == "delivery"]
    assert [*told, *more] == [f"many:{number}" for number in range(1, 121)]
