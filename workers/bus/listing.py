"""Reads for people: what is in a tenant's ledger, newest first. Reads only; changes nothing, promises no snapshot."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from schemas.agent import Agent
from schemas.context import Context
from schemas.delivery import State
from schemas.envelope import Envelope
from schemas.ids import AgentId, MessageId, is_agent_id
from schemas.receipt import Receipt
from workers.broker import keys
from workers.broker.client import Client
from workers.broker.rules import RATE_WINDOW_MS, WINDOW_PAD_MS
from workers.bus.receipts import read_receipt
from workers.errors import NotFoundError

PAGE = 50


@dataclass(frozen=True, slots=True)
class Listed:
    """One message of a listing. `envelope` is None where it cannot be read (it was refused, or purged)."""

    receipt: Receipt
    envelope: Envelope | None


Fits = Callable[[Listed], bool]


@dataclass(frozen=True, slots=True)
class Hold:
    """Somebody who is kept from being taken until a time."""

    until_ms: int
    cause: str


async def messages(
    context: Context,
    client: Client,
    *,
    since_ms: int | None = None,
    fits: Fits = lambda _: True,
    limit: int,
    looked_at: int | None = None,
) -> list[Listed]:
    """The newest messages that fit. Reads page by page until there are enough, or so many were looked at."""
    found: list[Listed] = []
    number = 0
    async for one in _newest_first(context, client, since_ms):
        number += 1
        if fits(one):
            found.append(one)
        if len(found) == limit or number == looked_at:
            break
    return found


async def read_message(context: Context, client: Client, message_id: MessageId) -> Listed:
    """One message with its envelope.

    Raises:
        NotFoundError: no such message in this tenant.
    """
    receipt = await read_receipt(context, client, message_id)
    return Listed(receipt, await _envelope(context, client, message_id))


async def counters(context: Context, client: Client) -> dict[str, int]:
    """The tenant's counts: what waits, what runs, and one for each end."""
    found: Mapping[bytes, bytes] = await client.hgetall(keys.of(context).counters)
    return {name.decode(): int(count) for name, count in found.items()}


async def holds(context: Context, client: Client, now_ms: int) -> dict[str, Hold]:
    """Who is held, by agent id; `*` for the tenant."""
    found: Mapping[bytes, bytes] = await client.hgetall(keys.of(context).holds)
    held = {}
    for who, record in found.items():
        until, _, cause = record.decode().partition("|")
        if int(until) > now_ms:
            held[who.decode()] = Hold(int(until), cause)
    return held


async def mailbox_sizes(context: Context, client: Client, agents: Sequence[AgentId]) -> dict[AgentId, int]:
    """How many deliveries wait for each agent."""
    names = keys.of(context)
    async with client.pipeline(transaction=False) as pipe:
        for agent in agents:
            pipe.zcard(names.mailbox(agent))
        sizes = await pipe.execute() if agents else []
    return dict(zip(agents, sizes, strict=True))


async def known_agents(context: Context, client: Client) -> list[Agent]:
    """The agents that are remembered, by name, without asking Letta."""
    found: Mapping[bytes, bytes] = await client.hgetall(keys.of(context).agents)
    agents = []
    for id_, record in found.items():
        if is_agent_id(id_.decode()):
            agents.append(Agent.model_validate_json(record))
    return sorted(agents, key=lambda agent: (agent.name, agent.id))


async def leased(context: Context, client: Client) -> frozenset[AgentId]:
    """The agents that have a turn now."""
    return frozenset(member.decode() for member in await client.zrange(keys.of(context).leases, 0, -1))


async def turns_in_window(context: Context, client: Client, scope: str, now_ms: int) -> int:
    """How many turns of a rate's scope (`tenant`, `agent:<id>`, `team:<name>`) still count now."""
    times: list[bytes] = await client.lrange(keys.of(context).rate(scope), 0, -1)
    return sum(int(at_ms) >= now_ms - RATE_WINDOW_MS - WINDOW_PAD_MS for at_ms in times)


async def _newest_first(context: Context, client: Client, since_ms: int | None) -> AsyncIterator[Listed]:
    index, lowest = keys.of(context).messages, "-inf" if since_ms is None else since_ms
    start = 0
    while True:
        page = await client.zrevrangebyscore(index, "+inf", lowest, start=start, num=PAGE)
        for one in await asyncio.gather(*(_one(context, client, member.decode()) for member in page)):
            if one is not None:
                yield one
        if len(page) < PAGE:
            return
        start += PAGE


async def _one(context: Context, client: Client, message_id: MessageId) -> Listed | None:
    try:
        return await read_message(context, client, message_id)
    except NotFoundError:
        # Purged between the index and the look.
        return None


async def _raw_letter(context: Context, client: Client, message_id: MessageId, entry: str) -> bytes | None:
    """What was refused, as it came: among the dead letters since it was published, which are soon after it."""
    letters = await client.xrange(keys.of(context).dead, entry.partition("-")[0], "+", count=PAGE)
    wanted = message_id.encode()
    return next((fields.get(b"raw") or None for _, fields in letters if fields.get(b"message") == wanted), None)


async def _envelope(context: Context, client: Client, message_id: MessageId) -> Envelope | None:
    names = keys.of(context)
    raw, entry, state = await client.hmget(names.message(message_id), "envelope", "entry", "state")
    if raw is None and entry is not None:
        if state == State.REFUSED.encode():
            raw = await _raw_letter(context, client, message_id, entry.decode())
        else:
            # Accepted, not dispatched yet: it still stands on the stream.
            entries = await client.xrange(names.tasks, entry.decode(), entry.decode())
            raw = entries[0][1].get(b"message") if entries else None
    if raw is None:
        return None
    try:
        # A refused one may be anything at all.
        return Envelope.model_validate_json(raw)
    except ValidationError:
        return None
