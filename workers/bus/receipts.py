"""Reads what became of a message. Reads only; never what somebody else may not see."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping

from schemas.agent import Agent
from schemas.context import Context
from schemas.delivery import Cause, State
from schemas.ids import DeliveryId, MessageId, delivery_id
from schemas.receipt import DeliveryReceipt, Receipt, Step
from workers.broker import keys
from workers.broker.client import Client
from workers.bus.keeping import Kept, what_keeps, what_keeps_message
from workers.errors import NotFoundError

_ORDER = (
    State.RUNNING,
    State.WAITING,
    State.DEAD,
    State.UNKNOWN,
    State.REFUSED,
    State.EXPIRED,
    State.CANCELLED,
    State.DELIVERED,
)
"""What a message with several deliveries is called by: the least finished, then the worst."""


DELIVERIES = 50
"""How many deliveries a receipt tells: all of a team, the first of a bulk send."""
PAGE = 500


async def read_receipt(context: Context, client: Client, message_id: MessageId, *, most: int = DELIVERIES) -> Receipt:
    """The message's receipt, with at most so many of its deliveries.

    Raises:
        NotFoundError: no such message in this tenant.
    """
    names = keys.of(context)
    message = _text(await client.hgetall(names.message(message_id)))
    if not message:
        raise NotFoundError(f"there is no message {message_id!r} in tenant {context.tenant!r}")
    made = _made(message)
    records = await _records(context, client, message_id, range(1, min(made, most) + 1))
    if made and most and not records:
        # Purged between the two looks.
        raise NotFoundError(f"there is no message {message_id!r} in tenant {context.tenant!r}")
    if message["state"] == State.ACCEPTED:
        message["cause"] = (await what_keeps_message(context, client, message)).cause or ""
    return _receipt(
        message_id,
        message,
        await _told(context, client, message, records),
        max((one["expires_at"] for one in records.values() if "expires_at" in one), default=None),
    )


async def read_deliveries(
    context: Context, client: Client, message_id: MessageId, *, behind: int = 0
) -> AsyncIterator[DeliveryReceipt]:
    """Every delivery of a message that is made by now, behind the first so many, in the order of its recipients, read
    page by page.

    Raises:
        NotFoundError: no such message in this tenant.
    """
    message = _text(await client.hgetall(keys.of(context).message(message_id)))
    if not message:
        raise NotFoundError(f"there is no message {message_id!r} in tenant {context.tenant!r}")
    made = _made(message)
    for first in range(behind + 1, made + 1, PAGE):
        records = await _records(context, client, message_id, range(first, min(first + PAGE, made + 1)))
        for one in await _told(context, client, message, records):
            yield one


async def _records(
    context: Context, client: Client, message_id: MessageId, numbers: range
) -> dict[DeliveryId, dict[str, str]]:
    ids = [delivery_id(message_id, number) for number in numbers]
    async with client.pipeline(transaction=False) as pipe:
        for id_ in ids:
            pipe.hgetall(keys.of(context).delivery(id_))
        records = await pipe.execute() if ids else []
    return {id_: _text(record) for id_, record in zip(ids, records, strict=True) if record}


async def _told(
    context: Context, client: Client, message: Mapping[str, str], records: Mapping[DeliveryId, Mapping[str, str]]
) -> list[DeliveryReceipt]:
    kept = await what_keeps(context, client, message, records)
    agents = await _names(context, client, {record["agent"] for record in records.values()})
    return [_delivery(id_, one, agents, kept.get(id_)) for id_, one in records.items()]


def _made(message: Mapping[str, str]) -> int:
    """How many deliveries it has by now."""
    return int(message.get("expanded" if message["state"] == "expanding" else "deliveries", 0))


def _receipt(
    message_id: MessageId, message: Mapping[str, str], deliveries: list[DeliveryReceipt], redriven_until: str | None
) -> Receipt:
    recipients = int(message.get("deliveries", 0))
    ends = Counter(one.state for one in deliveries if one.state.is_final)
    open_ = recipients - ends.total()
    states = {delivery.state for delivery in deliveries}
    if recipients > len(deliveries):
        # What is not read here is counted in the message's record.
        ends = Counter({state: int(message.get(f"n_{state}", 0)) for state in State})
        open_ = int(message["open"])
        states |= {state for state, number in ends.items() if number}
        states |= {State.WAITING} if open_ else set()
    state = next((state for state in _ORDER if state in states), None)
    if message["state"] in {"expanding", State.ACCEPTED}:
        state = State.ACCEPTED
    leading = next((delivery for delivery in deliveries if delivery.state == state), None)
    return Receipt(
        message_id=message_id,
        state=state or State(message["state"]),
        cause=leading.cause if leading else _cause(message.get("cause")),
        detail=leading.detail if leading else message.get("detail") or None,
        accepted_at_ms=int(message["accepted_at"]),
        expires_at_ms=_number(redriven_until or message.get("expires_at")),
        deliveries=tuple(deliveries),
        recipients=recipients,
        open=open_,
        ends={state: number for state, number in ends.items() if number},
        paused_at_ms=_number(message.get("paused")),
        gathered_at_ms=_number(message.get("gathered_at")),
        gathered=frozenset(message["gathered"].split()) if "gathered" in message else None,
        reply_message_id=message.get("reply_message"),
        acked_at_ms={reader: int(at) for reader, _, at in _acks(message)},
    )


def _delivery(id_: str, record: Mapping[str, str], agents: Mapping[str, str], kept: Kept | None) -> DeliveryReceipt:
    state = State(record["state"])
    teams = record.get("teams", "")
    return DeliveryReceipt(
        id=id_,
        agent=record["agent"],
        agent_name=agents.get(record["agent"]),
        state=state,
        teams=tuple(teams.split(",")) if teams else (),
        cause=kept.cause if kept else _cause(record.get("cause")),
        detail=record.get("detail") or None,
        attempts=int(record.get("attempt", 0)),
        due_at_ms=kept.until_ms if kept else None,
        delivered_at_ms=_number(record.get("delivered_at")),
        read_at_ms=_number(record.get("ended_at")) if state is State.DELIVERED else None,
        ended_at_ms=_number(record.get("ended_at")),
        reply=record.get("reply"),
        stop_reason=record.get("stop_reason") or None,
        run_id=record.get("run") or None,
        total_tokens=_number(record.get("tokens")),
        late=record.get("late") == "1",
        reply_message_id=record.get("reply_message"),
        history=tuple(_steps(record.get("history", ""))),
    )


def _acks(message: Mapping[str, str]) -> list[tuple[str, str, str]]:
    return [line.partition("|") for line in message.get("acks", "").splitlines()]


def _steps(history: str) -> list[Step]:
    steps = []
    for line in history.splitlines():
        at, state, cause = line.split("|")
        steps.append(Step(at_ms=int(at), state=State(state), cause=_cause(cause)))
    return steps


async def _names(context: Context, client: Client, ids: set[str]) -> dict[str, str]:
    if not ids:
        return {}
    ordered = sorted(ids)
    records = await client.hmget(keys.of(context).agents, ordered)
    agents = {id_: Agent.model_validate_json(record) for id_, record in zip(ordered, records, strict=True) if record}
    return {id_: agent.name for id_, agent in agents.items()}


def _text(record: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode(errors="replace") for name, value in record.items()}


def _number(text: str | None) -> int | None:
    return int(text) if text else None


def _cause(text: str | None) -> Cause | None:
    return Cause(text) if text else None
