"""A ledger with every kind of structure and state in it: what tests/support/fixture.py writes out."""

import json
import random
from typing import Any

from schemas.context import Operator, service_context
from schemas.delivery import Cause, State
from schemas.tenant import Limits
from tests.support.builders import agent, arq_on, envelope, resources, settings
from tests.support.fixture import Document
from tests.support.ledger import OWNER, Ledger, agent_id
from tests.support.post_office import PostOffice
from tests.support.time import CLOCK_LUA, ScriptTime
from workers.broker import keys
from workers.broker.client import Client
from workers.broker.rules import Pool
from workers.broker.scripts import Scripts
from workers.bus.receipts import read_receipt
from workers.directory.teams import Teams
from workers.directory.tenants import Tenants
from workers.mailbox.audit import judge
from workers.mailbox.ledgered import read
from workers.mailbox.ring import Bells
from workers.turn.settlement import Ending

OPERATOR = Operator("fixture")
ROSTER = [
    agent(1, "researcher", "team:news"),
    agent(2, "writer", "team:news", "role:editor"),
    agent(3, "editor", "team:news", "role:editor"),
    *(agent(number, f"support-{number}", "desk:support") for number in range(4, 10)),
    *(agent(number, f"single-{number}") for number in range(10, 31)),
]
TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b"}


async def make(client: Client) -> tuple[int, Document]:
    """The time at which the ledger stands, in microseconds, and every message's receipt."""
    time = ScriptTime(client)
    await time.start()
    tenants = Tenants(client)
    for tenant in ("acme", "globex", "initech"):
        await tenants.create(OPERATOR, tenant, Limits(), now_ms=time.now_ms)
    ledger = Ledger(client, time)
    await ledger.scripts.hold_stream(ledger.context, owner=OWNER, lease_ms=15_000)
    records = [(one.id, one.model_dump_json()) for one in ROSTER]
    await ledger.scripts.store_agents(ledger.context, age_ms=0, records=records)
    await Teams(client).create(OPERATOR.for_tenant("acme"), "desk", tags=("desk:support",), now_ms=1)
    office = PostOffice(ledger, ROSTER, Ending(settings(), random.Random(1)))
    for step in (_ended, _refused, _many, _at_work, _waiting):
        await step(office)
    await _around(office)
    await _others(client, tenants)
    assert judge(await read(client, ledger.context), time.now_us, ledger.rules) == []
    ids = sorted(member.decode() for member in await client.zrange(ledger.keys.messages, 0, -1))
    receipts = {id_: (await read_receipt(ledger.context, client, id_)).model_dump(mode="json") for id_ in ids}
    _assert_complete([key.decode() for key in await client.keys("*")])
    return time.now_us, receipts


def to(number: int) -> dict[str, Any]:
    return {"to": {"agent": agent_id(number)}}


async def _turn(office: PostOffice, id_: str, state: State, cause: Cause, *, number: int, **more: Any) -> None:
    """One message to one agent, taken and settled."""
    await office.publish(id_, **to(number), **more.pop("said", {}))
    await office.dispatch()
    taken = await office.take_one(f"{id_}:1")
    assert await office.settle(taken, state, cause, **more) in {"settled", "parked"}


async def _ended(office: PostOffice) -> None:
    """One of each end, and every form of an envelope that reaches an agent."""
    ledger = office.ledger
    full = {
        "kind": "command",
        "sender": "crm",
        "priority": "high",
        "ttl": 3600.5,
        "conversation": "conv-1",
        "correlation_id": "ticket-7",
        "causation_id": "m0",
        "hops": 2,
        "on_unknown": "never_resend",
        "metadata": {"deep": [1, 2.5, None, {"x": "ü"}]},
        "trace": TRACE,
        "colour": {"unknown": ["field"]},
    }
    forms: dict[str, dict[str, Any]] = {
        "smallest": {},
        "full": full,
        "forwarded": {"reply_to": {"agent": agent_id(11)}},
        "to-a-team": {"reply_to": {"team": "desk", "role": "boss"}},
        "to-a-stream": {"reply_to": {"stream": "crm"}, "kind": "event", "priority": "low"},
        "to-a-queue": {"reply_to": {"queue": "desk-queue"}, "kind": "broadcast", "priority": "urgent"},
        "system": {"kind": "system", "expires_at": "2100-01-01T00:00:00+02:00"},
    }
    for id_, form in forms.items():
        await office.publish(id_, **to(10), **form)
        await office.dispatch()
        await office.deliver(await office.take_one(f"{id_}:1"), f"reply to {id_}: ü")
    await ledger.scripts.ack(ledger.context, reader="crm:inbox", message_ids=["smallest"])
    await _turn(office, "dead", State.DEAD, Cause.ATTEMPTS, number=12, detail="500: it broke", run_id="run-dead")
    await _turn(office, "unknown", State.UNKNOWN, Cause.OUTCOME_UNKNOWN, number=13, detail="the call was cut")
    await _turn(
        office, "agent-gone", State.REFUSED, Cause.UNKNOWN_AGENT, number=14, said={"reply_to": {"stream": "crm"}}
    )
    await office.publish("expired", **to(15), ttl=1)
    await office.publish("late", **to(16), ttl=1)
    await office.publish("cancelled", **to(17))
    await office.dispatch()
    late = await office.take_one("late:1")
    await ledger.time.advance(seconds=2)
    await ledger.scripts.sweep(ledger.context, seed="swept", overflow_ms=1_000)
    await office.deliver(late)
    await ledger.scripts.cancel(ledger.context, message_id="cancelled")
    await office.publish("crashed", **to(10))
    await office.dispatch()
    for _ in range(2):
        # What workers fell silent over twice is taken alone.
        await office.take_one("crashed:1")
        await ledger.time.advance(seconds=16)
    await ledger.scripts.sweep(ledger.context, seed="swept", overflow_ms=1_000)
    await office.deliver(await office.take_one("crashed:1"))


async def _refused(office: PostOffice) -> None:
    await office.put(b"\xff\xfe is no UTF-8")
    await office.put({"to": {"agent": "nobody"}, "content": "raw, without an id"})
    await office.publish("nobody", to={"agent": "nobody"}, reply_to={"queue": "desk-queue"})
    await office.put({"id": "smallest", "to": {"agent": "researcher"}, "content": "another body"})
    await office.dispatch()


async def _many(office: PostOffice) -> None:
    """Teams, gatherings and bulk sends, each half done."""
    ledger = office.ledger
    await office.publish("gathered", to={"team": "news"}, gather={"want": 1, "within": 60}, reply_to={"stream": "crm"})
    await office.dispatch()
    for taken in await office.take():
        await office.deliver(taken, f"of {taken.agent[-2:]}")
    told = [f"gathered:{number}" for number in (1, 2, 3)]
    reply = envelope(id="gathered-reply", content="three said", to={"agent": agent_id(11)}, kind="reply")
    await ledger.scripts.gather(
        ledger.context,
        message_id="gathered",
        text="three said",
        deliveries=told,
        forward_id="gathered-reply",
        forward_digest=reply.digest(),
        forward_envelope=reply.to_wire(),
    )
    await office.publish("gathering", to={"team": "news"}, gather={"want": "all", "within": 3600})
    await office.dispatch()
    first, *others = await office.take()
    await office.deliver(first)
    for taken in others:
        await office.settle(taken, State.WAITING, Cause.BACKOFF, due_in_ms=600_000)
    bulk: dict[str, Any] = {"to": {"tags": ["desk:support"], "name": "support-*", "at_most": 50}}
    await office.publish("bulk-open", **bulk)
    await office.dispatch()
    one, *rest = await office.take()
    await office.deliver(one)
    for taken in rest:
        await office.settle(taken, State.WAITING, Cause.BACKOFF, due_in_ms=700_000)
    await office.publish("bulk-paused", to={"name": "support-?", "canaries": True})
    await office.dispatch()
    await ledger.scripts.pause(ledger.context, message_id="bulk-paused")
    assert await office.take() == []
    for number in (1, 2, 3, 10):
        await ledger.scripts.park(ledger.context, agent=agent_id(number), by="cli:me", why="a | look")


async def _at_work(office: PostOffice) -> None:
    """What stands under a lease."""
    for id_, number, priority in (("running", 18, "normal"), ("express", 19, "urgent"), ("bulk", 20, "low")):
        await office.put({"id": id_, **to(number), "content": "x", "priority": priority})
    await office.dispatch()
    running = {one.id: one for one in await office.take()}
    await office.ledger.scripts.record_run(
        office.ledger.context,
        delivery_id="running:1",
        agent=agent_id(18),
        token=running["running:1"].token,
        run_id="run-18",
    )
    assert {"running:1", "express:1", "bulk:1"} <= set(running)


async def _waiting(office: PostOffice) -> None:
    """Everything that keeps a delivery, one by one."""
    ledger = office.ledger
    held: dict[str, tuple[int, Cause, dict[str, Any]]] = {
        "backoff": (21, Cause.BACKOFF, {"due_in_ms": 900_000, "detail": "503: away"}),
        "looking": (22, Cause.LOOKING, {"due_in_ms": 900_000, "fate_open": True, "run_id": "run-22"}),
        "busy": (23, Cause.BUSY, {"hold": "agent", "hold_ms": 900_000, "refund": True}),
        "parked": (24, Cause.PARKED, {"hold": "parked", "refund": True, "detail": "its history is broken"}),
    }
    for id_, (number, cause, how) in held.items():
        await office.put({"id": id_, **to(number), "content": "x", "reply_to": {"agent": "writer"}, "ttl": 86_400})
        await office.dispatch()
        await office.settle(await office.take_one(f"{id_}:1"), State.WAITING, cause, **how)
    for number in range(4):
        id_ = f"failed-{number}"
        await office.put({"id": id_, **to(25), "content": "x"})
        await office.dispatch()
        await office.settle(await office.take_one(f"{id_}:1"), State.DEAD, Cause.REJECTED, detail="422")
    letters = {fields[b"message"]: id_ for id_, fields in await ledger.client.xrange(ledger.keys.dead)}
    await ledger.scripts.redrive(ledger.context, entry_id=letters[b"failed-0"].decode(), ttl_ms=86_400_000)
    await ledger.scripts.discard(ledger.context, entry_id=letters[b"failed-1"].decode())
    await office.put({"id": "not-before", **to(26), "content": "x", "not_before": "2099-01-01T00:00:00Z"})
    for id_, priority in (("ready-1", "normal"), ("ready-2", "low"), ("ready-3", "high"), ("ready-4", "urgent")):
        await office.put({"id": id_, **to(27), "content": "x", "priority": priority})
    for number, priority in ((28, "normal"), (29, "low"), (30, "high")):
        await office.put({"id": f"ready-{number}", **to(number), "content": "x", "priority": priority})
    await office.dispatch()


async def _around(office: PostOffice) -> None:
    """What stands beside the ledger: claims, jobs, signs of life, entries that nobody has read yet."""
    ledger, client = office.ledger, office.ledger.client
    bells = Bells(arq_on(client), ledger.scripts, resources(client).log)
    for pool in Pool:
        await bells.hand_on(ledger.context, pool)
    await bells.note(ledger.context, ledger.time.now_ms + 1_000)
    await office.publish("bulk-expanding", by_operator=True, to={"name": "single-*"})
    await office.dispatch(expand=4)
    await office.publish("accepted", **to(1), reply_to={"stream": "crm"})
    await office.put({"id": "raw", **to(2), "content": "nobody has read it yet"})
    await client.zadd(keys.dispatchers(), {OWNER: ledger.time.now_ms // 1000 + 15})
    sign = {"process": OWNER, "version": "0.1.0", "pid": 7, "at_ms": ledger.time.now_ms, "in_flight": 3, "services": {}}
    await client.set(keys.process(OWNER), json.dumps(sign), px=15_000)


async def _others(client: Client, tenants: Tenants) -> None:
    """A suspended tenant with something on its stream, and one that is leaving."""
    await client.xadd(keys.of(service_context("globex", "x")).tasks, {"message": b'{"to":{"agent":"a"},"content":"x"}'})
    for tenant in ("globex", "initech"):
        await tenants.suspend(OPERATOR, tenant, suspended=True)
    gone = service_context("initech", "x")
    await Scripts(client, clock_lua=CLOCK_LUA).leave(gone, mark=7)
    await client.srem(keys.tenants(), "initech")
    await client.zadd(keys.leaving(), {"initech": 1})


def _assert_complete(found: list[str]) -> None:
    """Every name of the table has a key: a structure that is added is added here, too."""
    owned = {id(keys.describe(key)) for key in found}
    tables = {**keys.TENANT_NAMES, **keys.GLOBAL_NAMES}
    missing = [name for name, entry in tables.items() if id(entry) not in owned and entry.type != "channel"]
    assert not missing, missing
