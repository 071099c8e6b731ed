"""Reads about one agent, and about who is parked: for people. Reads only; promises no snapshot."""

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.context import Context
from schemas.delivery import Cause, State
from schemas.ids import AgentId, DeliveryId
from workers.broker import keys
from workers.broker.client import Client
from workers.bus.keeping import Kept, what_keeps

EVENTS_READ = 5_000
"""How far back the last ends are looked for."""


@dataclass(frozen=True, slots=True)
class Parked:
    """An agent that is left alone until somebody unparks it."""

    at_ms: int
    by: str
    """The principal; `worker` where it was parked by what its messages met."""
    why: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """A delivery in an agent's mailbox, and what keeps it."""

    id: DeliveryId
    kept: Kept
    attempts: int
    detail: str


@dataclass(frozen=True, slots=True)
class Running:
    """The turn that an agent has now."""

    delivery: DeliveryId
    owner: str
    run_id: str | None


@dataclass(frozen=True, slots=True)
class End:
    """How a delivery to the agent came to its end."""

    delivery: DeliveryId
    at_ms: int
    state: State
    cause: Cause | None


async def parked(context: Context, client: Client) -> dict[AgentId, Parked]:
    """Who is parked, by agent id."""
    found: Mapping[bytes, bytes] = await client.hgetall(keys.of(context).parked)
    return {agent.decode(): _parked(said) for agent, said in found.items()}


async def parked_one(context: Context, client: Client, agent: AgentId) -> Parked | None:
    """One agent's record, where it is parked."""
    said: bytes | None = await client.hget(keys.of(context).parked, agent)
    return _parked(said) if said is not None else None


async def failures(context: Context, client: Client, agent: AgentId) -> int:
    """How many of its messages in a row ended dead."""
    return int(await client.hget(keys.of(context).failures, agent) or 0)


async def waiting(context: Context, client: Client, agent: AgentId, *, limit: int) -> list[Waiting]:
    """The first deliveries of its mailbox, in the order of the mailbox, each with what keeps it now."""
    names = keys.of(context)
    ids = [member.decode() for member in await client.zrange(names.mailbox(agent), 0, limit - 1)]
    if not ids:
        return []
    async with client.pipeline(transaction=False) as pipe:
        for id_ in ids:
            pipe.hgetall(names.delivery(id_))
            pipe.hexists(names.message(id_.rpartition(":")[0]), "paused")
        answers = await pipe.execute()
    records = {id_: _text(one) for id_, one in zip(ids, answers[::2], strict=True) if one}
    paused = {id_ for id_, one in zip(ids, answers[1::2], strict=True) if one}
    kept: dict[DeliveryId, Kept] = {}
    for message, wanted in (({"paused": "1"}, paused), ({}, records.keys() - paused)):
        kept |= await what_keeps(context, client, message, {id_: one for id_, one in records.items() if id_ in wanted})
    return [
        Waiting(id_, kept[id_], int(records[id_].get("attempt", 0)), records[id_].get("detail", ""))
        for id_ in ids
        if id_ in kept
    ]


async def running(context: Context, client: Client, agent: AgentId) -> Running | None:
    """The turn that it has now."""
    names = keys.of(context)
    holder: bytes | None = await client.hget(names.holders, agent)
    if holder is None:
        return None
    _, delivery, owner = holder.decode().split("|", 2)
    run: bytes | None = await client.hget(names.delivery(delivery), "run")
    return Running(delivery, owner, run.decode() if run else None)


async def last_ends(context: Context, client: Client, agent: AgentId, *, limit: int) -> list[End]:
    """Its last ends, newest first, as far as the last events tell."""
    ends = []
    for entry, raw in await client.xrevrange(keys.of(context).events, count=EVENTS_READ):
        said = _text(raw)
        state = State(said["state"])
        cause = Cause(said["cause"]) if said.get("cause") else None
        of_agent = said.get("agent") == agent and said.get("delivery")
        # What was gathered or discarded ended before.
        if of_agent and state.is_final and cause not in {Cause.GATHERED, Cause.DISCARDED}:
            ends.append(End(said["delivery"], int(entry.partition(b"-")[0]), state, cause))
            if len(ends) == limit:
                break
    return ends


def _parked(said: bytes) -> Parked:
    at_ms, by, why = said.decode(errors="replace").split("|", 2)
    return Parked(int(at_ms), by, why)


def _text(raw: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode(errors="replace") for name, value in raw.items()}
