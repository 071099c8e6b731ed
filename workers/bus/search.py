"""Finds messages: by agent, team, time, state and reader, or all of one thread. Reads only, page by page.

What cannot fit is left out by a short look at its record; only the others are read whole, and no more than asked for.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from schemas.address import TeamAddress
from schemas.context import Context
from schemas.delivery import State
from schemas.envelope import Envelope
from schemas.ids import MessageId, delivery_id, is_message_id
from schemas.receipt import DeliveryReceipt
from workers.broker import keys
from workers.broker.client import Client
from workers.bus.listing import Listed, known_agents, read_message
from workers.bus.receipts import read_deliveries
from workers.errors import NotFoundError

PAGE = 500
AT_ONCE = 50
"""Messages that are read whole at once."""
FROM_AGENT = "agent:"
"""Begins the sender of what an agent said, before its id."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which messages: those that fit everything that is given."""

    agent: str | None = None
    """To this one, by name or id."""
    team: str | None = None
    """To this team, or counted under it."""
    state: State | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    unacked_by: str | None = None
    """Only those that this reader has not acked."""
    in_state: State | None = None
    """Only those with a delivery in this state."""
    said: bool = False
    """Also what the agent itself said."""

    def fits(self, one: Listed, agents: "Agents") -> bool:
        """Whether this message is meant."""
        receipt = one.receipt
        return (
            self.state in {None, receipt.state}
            and (self.unacked_by is None or self.unacked_by not in receipt.acked_at_ms)
            and self.is_between(receipt.accepted_at_ms)
            and (self.in_state is None or any(self.is_for(each, one.envelope) for each in receipt.deliveries))
            and self.is_about(one, agents)
        )

    def is_between(self, at_ms: int) -> bool:
        """Whether it was accepted in time."""
        return (self.since_ms or 0) <= at_ms and (self.until_ms is None or at_ms <= self.until_ms)

    def is_about(self, one: Listed, agents: "Agents") -> bool:
        """Whether it has to do with the agent and the team."""
        if self.agent is None and self.team is None:
            return True
        if any(self.is_for(delivery, one.envelope) for delivery in one.receipt.deliveries):
            return True
        if one.envelope is None:
            return False
        to_agent = self.agent is None or getattr(one.envelope.to, "agent", None) == self.agent
        addressed = to_agent and (self.team is None or _is_to_team(one.envelope, self.team))
        # Without a delivery, only the address tells whom it was for.
        return (addressed and not one.receipt.deliveries) or (self.said and self._said_it(one.envelope, agents))

    def is_for(self, delivery: DeliveryReceipt, envelope: Envelope | None) -> bool:
        """Whether this delivery, of a message with that envelope, is meant."""
        to_team = envelope is not None and self.team is not None and _is_to_team(envelope, self.team)
        return (
            self.agent in {None, delivery.agent, delivery.agent_name}
            and self.in_state in {None, delivery.state}
            and (self.team is None or to_team or self.team in delivery.teams)
        )

    def _said_it(self, envelope: Envelope, agents: "Agents") -> bool:
        if self.agent is None:
            return False
        return envelope.sender in {FROM_AGENT + id_ for id_ in agents.get(self.agent, {self.agent})}


Agents = dict[str, set[str]]
"""The ids of the remembered agents by name and by id."""


async def search(
    context: Context,
    client: Client,
    wanted: Wanted,
    *,
    limit: int,
) -> list[Listed]:
    """The newest messages that are wanted, newest first."""
    agents: Agents = {}
    for agent in await known_agents(context, client):
        agents.setdefault(agent.name, set()).add(agent.id)
        agents.setdefault(agent.id, set()).add(agent.id)
    found: list[Listed] = []
    size = min(PAGE, max(AT_ONCE, limit))
    async for page in _pages(context, client, (wanted.since_ms, wanted.until_ms), size=size, newest_first=True):
        might = await _might_fit(context, client, page, wanted, agents)
        for some in _some(might):
            for one in await _read(context, client, some):
                whole = await _with_those_meant(context, client, one, wanted)
                if wanted.fits(whole, agents):
                    found.append(whole)
                    if len(found) == limit:
                        return found
        size = PAGE
    return found


async def read_thread(context: Context, client: Client, id_: str, wanted: Wanted, *, limit: int) -> list[Listed]:
    """A message with what it follows from, what answers it and what follows from that; or all that was published
    under one correlation id. Oldest first, at most `limit`.

    Raises:
        NotFoundError: there is neither a message nor a correlation of this id.
    """
    members, since_ms = await _root(context, client, id_)
    thread: list[Listed] = []
    known = False
    async for page in _pages(context, client, (since_ms, wanted.until_ms), size=PAGE, newest_first=False):
        ties = {message_id: _ties(envelope) for message_id, envelope in await _tied(context, client, page)}
        # More than once: in one millisecond, what follows may be listed before what it follows from.
        while more := [one for one in ties if one not in members and not members.isdisjoint(ties[one])]:
            members.update(more)
        found = [one for one in ties if one in members]
        known = known or bool(found)
        for some in _some(found):
            thread += [one for one in await _read(context, client, some) if wanted.fits(one, {})]
        if len(thread) >= limit:
            break
    if not known:
        raise NotFoundError(f"there is no message and no correlation {id_!r} in tenant {context.tenant!r}")
    return thread[:limit]


async def _root(context: Context, client: Client, id_: str) -> tuple[set[str], int | None]:
    """What the thread's first message is known by, and when it was accepted; None: perhaps long ago."""
    names, members, since_ms, seen = keys.of(context), {id_}, None, set[str]()
    current: str | None = id_
    while current is not None and current not in seen and is_message_id(current):
        seen.add(current)
        accepted_at = await client.hget(names.message(current), "accepted_at")
        if accepted_at is None:
            break
        since_ms = int(accepted_at)
        members.add(current)
        envelope = (await read_message(context, client, current)).envelope
        if envelope is not None and envelope.correlation_id is not None:
            members.add(envelope.correlation_id)
        current = envelope.causation_id if envelope is not None else None
    whole = {one for one in members if one not in seen}
    # A correlation that is no message's id may have begun before any message that is known here.
    return members, None if whole else since_ms


async def _tied(context: Context, client: Client, page: Sequence[MessageId]) -> list[tuple[MessageId, Envelope | None]]:
    """Each message that is still there, with its envelope where that says what it is tied to."""
    names = keys.of(context)
    async with client.pipeline(transaction=False) as pipe:
        for message_id in page:
            pipe.hmget(names.message(message_id), "envelope", "state")
        answers = await pipe.execute() if page else []
    looked = [(id_, raw) for id_, (raw, state) in zip(page, answers, strict=True) if state is not None]
    elsewhere: dict[MessageId, Envelope | None] = {}
    # What is not dispatched, or was refused, stands on a stream.
    for some in _some([id_ for id_, raw in looked if raw is None]):
        elsewhere.update({one.receipt.message_id: one.envelope for one in await _read(context, client, some)})
    return [(id_, elsewhere.get(id_) if raw is None else _tying(raw)) for id_, raw in looked]


def _tying(raw: bytes) -> Envelope | None:
    if b'"correlation_id"' not in raw and b'"causation_id"' not in raw:
        return None
    try:
        return Envelope.model_validate_json(raw)
    except ValidationError:
        # Of a version that this one does not read.
        return None


def _ties(envelope: Envelope | None) -> list[str]:
    return [one for one in (envelope.correlation_id, envelope.causation_id) if one] if envelope else []


async def _might_fit(
    context: Context, client: Client, page: Sequence[MessageId], wanted: Wanted, agents: Agents
) -> list[MessageId]:
    """Those of a page that a short look does not rule out, in their order."""
    narrowing = (wanted.state, wanted.in_state, wanted.agent, wanted.team, wanted.unacked_by)
    if all(one is None for one in narrowing):
        return list(page)
    names, by_text = keys.of(context), wanted.team is not None or wanted.said
    fields = ("state", "deliveries", "acks", *(("envelope",) if by_text else ()))
    async with client.pipeline(transaction=False) as pipe:
        for message_id in page:
            pipe.hmget(names.message(message_id), *fields)
            pipe.hmget(names.delivery(delivery_id(message_id, 1)), "state", "agent", "teams")
        answers = await pipe.execute() if page else []
    looks = zip(page, answers[::2], answers[1::2], strict=True)
    return [id_ for id_, message, delivery in looks if _might(message, delivery, wanted, agents)]


def _might(message: Sequence[Any], delivery: Sequence[Any], wanted: Wanted, agents: Agents) -> bool:
    state, deliveries, acks, *envelope = message
    number = int(deliveries or 0)
    state = delivery[0] if number == 1 else state
    ids = agents.get(wanted.agent, {wanted.agent}) if wanted.agent is not None else None
    text: bytes = (envelope[0] if envelope else None) or b""
    return (
        state is not None
        and (wanted.unacked_by is None or b"\n%s|" % wanted.unacked_by.encode() not in b"\n" + (acks or b""))
        and (number > 1 or wanted.state is None or state == wanted.state.encode())
        and (number > 1 or wanted.in_state is None or (number == 1 and state == wanted.in_state.encode()))
        and (number != 1 or ids is None or _said_in(text, ids, wanted) or delivery[1].decode() in ids)
        and (number != 1 or wanted.team is None or b'"team"' in text or wanted.team in _teams(delivery[2]))
    )


def _said_in(text: bytes, ids: set[str], wanted: Wanted) -> bool:
    return wanted.said and any((FROM_AGENT + id_).encode() in text for id_ in ids)


def _teams(field: bytes | None) -> list[str]:
    return (field or b"").decode().split(",")


async def _pages(
    context: Context, client: Client, between: tuple[int | None, int | None], *, size: int, newest_first: bool
) -> AsyncIterator[list[MessageId]]:
    """The ids of messages by acceptance. What comes in or goes meanwhile moves nothing: each page begins where the
    last one ended, not at a number.
    """
    index = keys.of(context).messages
    lowest: float | str = "-inf" if between[0] is None else between[0]
    highest: float | str = "+inf" if between[1] is None else between[1]
    seen: set[bytes] = set()
    while True:
        number = size + len(seen)
        if newest_first:
            page = await client.zrevrangebyscore(index, highest, lowest, start=0, num=number, withscores=True)
        else:
            page = await client.zrangebyscore(index, lowest, highest, start=0, num=number, withscores=True)
        yield [member.decode() for member, _ in page if member not in seen]
        if len(page) < number:
            return
        edge = page[-1][1]
        seen = {member for member, score in page if score == edge}
        if newest_first:
            highest = edge
        else:
            lowest = edge


async def _read(context: Context, client: Client, ids: Sequence[MessageId]) -> list[Listed]:
    async def one(message_id: MessageId) -> Listed | None:
        try:
            return await read_message(context, client, message_id)
        except NotFoundError:
            # Purged between the index and the look.
            return None

    found = await asyncio.gather(*(one(message_id) for message_id in ids))
    return [each for each in found if each is not None]


async def _with_those_meant(context: Context, client: Client, one: Listed, wanted: Wanted) -> Listed:
    """A message to more agents than a receipt tells of, with the deliveries that are meant instead of the first."""
    told = len(one.receipt.deliveries)
    narrowed = wanted.agent is not None or wanted.team is not None or wanted.in_state is not None
    if not narrowed or one.receipt.recipients == told:
        return one
    found = [each for each in one.receipt.deliveries if wanted.is_for(each, one.envelope)]
    async for each in read_deliveries(context, client, one.receipt.message_id, behind=told):
        if len(found) == AT_ONCE:
            break
        if wanted.is_for(each, one.envelope):
            found.append(each)
    return replace(one, receipt=one.receipt.model_copy(update={"deliveries": tuple(found)}))


def _some(ids: Sequence[MessageId]) -> Iterator[Sequence[MessageId]]:
    return (ids[first : first + AT_ONCE] for first in range(0, len(ids), AT_ONCE))


def _is_to_team(envelope: Envelope, team: str) -> bool:
    return isinstance(envelope.to, TeamAddress) and envelope.to.team == team
