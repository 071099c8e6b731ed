"""Short ways to say what the tests of the scripts say often."""

from collections.abc import Mapping
from dataclasses import replace

from schemas.delivery import Cause, State, Taken
from tests.support.ledger import OWNER, Ledger
from workers.broker.results import Dispatched, Move, Settlement
from workers.broker.rules import Rules

LEASE_MS = 15_000


async def events(ledger: Ledger) -> list[tuple[str, str, str]]:
    """What happened: delivery or message, state, cause."""
    found = await ledger.client.xrange(ledger.keys.events)
    return [
        ((fields[b"delivery"] or fields[b"message"]).decode(), fields[b"state"].decode(), fields[b"cause"].decode())
        for _, fields in found
    ]


async def letters(ledger: Ledger) -> list[dict[str, bytes]]:
    """The dead letters, oldest first."""
    return [
        {name.decode(): value for name, value in fields.items()}
        for _, fields in await ledger.client.xrange(ledger.keys.dead)
    ]


async def record(ledger: Ledger, message_id: str) -> dict[str, str]:
    """The record of a message."""
    found = await ledger.client.hgetall(ledger.keys.message(message_id))
    return {name.decode(): value.decode() for name, value in found.items()}


async def add_raw(ledger: Ledger, fields: Mapping[str | bytes, str | bytes]) -> str:
    """An entry by XADD, as a producer without the SDK writes it."""
    entry: bytes = await ledger.client.xadd(ledger.keys.tasks, dict(fields))
    return entry.decode()


def a_move(entry_id: str, message_id: str, agent: str, content: str = "hello") -> Move:
    return Move(
        entry_id=entry_id,
        message_id=message_id,
        digest=content,
        envelope=content,
        size=len(content),
        rank=2,
        not_before_ms=None,
        expires_at_ms=None,
        recipients=((agent, ()),),
    )


async def move(ledger: Ledger, one: Move, *, owner: str = OWNER, seed: str = "seed") -> Dispatched:
    return await ledger.scripts.dispatch(ledger.context, owner=owner, move=one, seed=seed)


async def refuse(ledger: Ledger, entry_id: str, message_id: str, *, owner: str = OWNER, detail: str = "") -> str:
    return await ledger.scripts.refuse(
        ledger.context,
        owner=owner,
        entry_id=entry_id,
        message_id=message_id,
        cause=Cause.INVALID,
        detail=detail,
    )


async def take_one(ledger: Ledger, **more: object) -> Taken:
    batch = await ledger.take(**more)  # type: ignore[arg-type]
    assert len(batch.taken) == 1, batch
    return batch.taken[0]


async def give_back(ledger: Ledger, taken: Taken, cause: Cause = Cause.BUSY, **more: object) -> str:
    return await ledger.settle(taken, State.WAITING, cause, **more)


def settlement(taken: Taken, state: State = State.DELIVERED, cause: Cause = Cause.REPLIED) -> Settlement:
    return Settlement(taken.id, taken.agent, taken.token, state, cause)


async def crash(ledger: Ledger) -> None:
    """Every worker falls silent, and the sweeper comes by."""
    await ledger.time.advance(ms=LEASE_MS)
    await sweep(ledger)


async def sweep(ledger: Ledger, seed: str = "swept", overflow_ms: int = 10**9) -> tuple[int, set[str]]:
    """Next look and pools."""
    answer = await ledger.scripts.sweep(ledger.context, seed=seed, overflow_ms=overflow_ms)
    return answer.next_look_ms, {str(pool) for pool in answer.pools}


async def rung(ledger: Ledger) -> set[str]:
    """The pools with a drain on its way."""
    return {name.decode() for name in await ledger.client.hkeys(f"{ledger.keys.root}rung")}


def with_rules(ledger: Ledger, **rules: object) -> Ledger:
    """The same tenant under other rules."""
    return Ledger(ledger.client, ledger.time, rules=replace(Rules(), **rules))  # type: ignore[arg-type]
