"""Reads what became of a message. Reads only; never what somebody else may not see."""

from collections.abc import Mapping

from schemas.agent import Agent
from schemas.context import Context
from schemas.delivery import Cause, State
from schemas.ids import MessageId, delivery_id
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


async def read_receipt(context: Context, client: Client, message_id: MessageId) -> Receipt:
    """The message's receipt.

    Raises:
        NotFoundError: no such message in this tenant.
    """
    names = keys.of(context)
    message = _text(await client.hgetall(names.message(message_id)))
    if not message:
        raise NotFoundError(f"there is no message {message_id!r} in tenant {context.tenant!r}")
    ids = [delivery_id(message_id, number + 1) for number in range(int(message.get("deliveries", 0)))]
    async with client.pipeline(transaction=False) as pipe:
        for id_ in ids:
            pipe.hgetall(names.delivery(id_))
        records = [_text(record) for record in await pipe.execute()]
    if ids and not any(records):
        # Purged between the two looks.
        raise NotFoundError(f"there is no message {message_id!r} in tenant {context.tenant!r}")
    kept = await what_keeps(context, client, message, {id_: one for id_, one in zip(ids, records, strict=True) if one})
    agents = await _names(context, client, {record["agent"] for record in records if record})
    if message["state"] == State.ACCEPTED:
        message["cause"] = (await what_keeps_message(context, client, message)).cause or ""
    return _receipt(
        message_id,
        message,
        [_delivery(id_, one, agents, kept.get(id_)) for id_, one in zip(ids, records, strict=True) if one],
        max((one["expires_at"] for one in records if "expires_at" in one), default=None),
    )


def _receipt(
    message_id: MessageId, message: Mapping[str, str], deliveries: list[DeliveryReceipt], redriven_until: str | None
) -> Receipt:
    states = {delivery.state for delivery in deliveries}
    state = next((state for state in _ORDER if state in states), None)
    leading = next((delivery for delivery in deliveries if delivery.state == state), None)
    return Receipt(
        message_id=message_id,
        state=state or State(message["state"]),
        cause=leading.cause if leading else _cause(message.get("cause")),
        detail=leading.detail if leading else message.get("detail") or None,
        accepted_at_ms=int(message["accepted_at"]),
        expires_at_ms=_number(redriven_until or message.get("expires_at")),
        deliveries=tuple(deliveries),
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
