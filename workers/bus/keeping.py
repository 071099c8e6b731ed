"""What keeps waiting deliveries now, and until when: read from what holds them, not from what was once written down."""

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.context import Context
from schemas.delivery import Cause, State
from schemas.ids import AgentId, DeliveryId
from workers.broker import keys
from workers.broker.client import Client

WHOLE_TENANT, WHOLE_STREAM, SERVER = "*", ">", "~"
"""What the holds of a tenant's turns, and of its stream, are called among the holds; and word of the Letta server,
which holds nothing."""
_TELLING = {Cause.LOOKING, Cause.RECOVERED, Cause.RETURNED, Cause.REDRIVEN}
"""Causes that say why it waits again; the others name a pause, and mean nothing once it is over."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Why it does not go now; no cause: nothing keeps it, its turn comes."""

    cause: Cause | None = None
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class _Around:
    """Everything that can keep a delivery, as one look found it."""

    now_ms: int
    suspended: bool
    is_full: bool
    """As many turns run as the tenant may have in flight."""
    holds: Mapping[str, Kept]
    parked: frozenset[AgentId]
    busy: frozenset[AgentId]
    """Agents that have a turn of ours now."""
    first: Mapping[AgentId, DeliveryId]
    """The delivery at the head of each mailbox."""

    def tenant(self) -> Kept | None:
        if self.suspended:
            return Kept(Cause.SUSPENDED)
        return self.holds.get(WHOLE_TENANT)

    def delivery(self, id_: DeliveryId, record: Mapping[str, str], *, paused: bool) -> Kept:
        """The widest thing first: what keeps the tenant, then the agent or the message, then the delivery itself."""
        reasons = (
            self.tenant(),
            self._stopped(record, paused=paused),
            self._pause(record),
            self._queue(id_, record["agent"]),
            self._server(),
        )
        return next((kept for kept in reasons if kept is not None), Kept(_telling(record)))

    def _stopped(self, record: Mapping[str, str], *, paused: bool) -> Kept | None:
        if record["agent"] in self.parked:
            return Kept(Cause.PARKED)
        # One whose call was cut is looked after, paused or not.
        return Kept(Cause.PAUSED) if paused and record.get("fate") != "open" else None

    def _pause(self, record: Mapping[str, str]) -> Kept | None:
        """Its own, or its agent's: the longer one."""
        held, due_ms = self.holds.get(record["agent"]), int(record.get("due") or 0)
        if due_ms > self.now_ms and (held is None or due_ms >= (held.until_ms or 0)):
            return Kept(_cause(record), due_ms)
        return held

    def _server(self) -> Kept | None:
        """Without a time: it is asked again and again."""
        return Kept(Cause.SERVER_AWAY) if SERVER in self.holds else None

    def _queue(self, id_: DeliveryId, agent: AgentId) -> Kept | None:
        if agent in self.busy or self.first.get(agent, id_) != id_:
            return Kept(Cause.BEHIND)
        return Kept(Cause.IN_FLIGHT) if self.is_full else None


async def what_keeps(
    context: Context, client: Client, message: Mapping[str, str], records: Mapping[DeliveryId, Mapping[str, str]]
) -> dict[DeliveryId, Kept]:
    """What keeps each of a message's deliveries that waits, given their records; one batch of reads for them all."""
    waiting = {id_: record for id_, record in records.items() if record["state"] == State.WAITING}
    if not waiting:
        return {}
    around = await _look(context, client, sorted({record["agent"] for record in waiting.values()}))
    paused = "paused" in message
    return {id_: around.delivery(id_, record, paused=paused) for id_, record in waiting.items()}


async def what_keeps_message(context: Context, client: Client, message: Mapping[str, str]) -> Kept:
    """What keeps a message that no dispatcher has moved into mailboxes yet."""
    around = await _look(context, client, [])
    if around.suspended:
        return Kept(Cause.SUSPENDED)
    return around.holds.get(WHOLE_STREAM) or Kept(Cause.PAUSED if "paused" in message else None)


async def _look(context: Context, client: Client, agents: list[AgentId]) -> _Around:
    names = keys.of(context)
    who = [WHOLE_TENANT, WHOLE_STREAM, SERVER, *agents]
    async with client.pipeline(transaction=False) as pipe:
        pipe.time()
        pipe.hmget(names.tenant, "suspended", "in_flight")
        pipe.zcard(names.leases)
        pipe.hmget(names.holds, who)
        pipe.hmget(names.parked, [WHOLE_TENANT, *agents])
        pipe.hmget(names.holders, [WHOLE_TENANT, *agents])
        for agent in agents:
            pipe.zrange(names.mailbox(agent), 0, 0)
        (seconds, micros), tenant, leases, holds, parked, holders, *first = await pipe.execute()
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    held = {one: _hold(said.decode()) for one, said in zip(who, holds, strict=True) if said}
    return _Around(
        now_ms=now_ms,
        suspended=tenant[0] == b"1",
        is_full=int(leases) >= int(tenant[1] or 0),
        holds={one: kept for one, kept in held.items() if (kept.until_ms or 0) > now_ms},
        parked=frozenset(agent for agent, said in zip(agents, parked[1:], strict=True) if said),
        busy=frozenset(agent for agent, said in zip(agents, holders[1:], strict=True) if said),
        first={agent: head[0].decode() for agent, head in zip(agents, first, strict=True) if head},
    )


def _hold(said: str) -> Kept:
    until, _, cause = said.partition("|")
    return Kept(Cause(cause) if cause in set(Cause) else None, int(until))


def _cause(record: Mapping[str, str]) -> Cause | None:
    return Cause(record["cause"]) if record.get("cause") else None


def _telling(record: Mapping[str, str]) -> Cause | None:
    cause = _cause(record)
    return cause if cause in _TELLING else None
