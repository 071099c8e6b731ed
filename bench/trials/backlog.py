"""Whether a delivery costs more where much waits, or where there are many tenants: Redis' time for take and settle."""

import asyncio
from collections.abc import Sequence

from bench.agents import TENANT, agent_id
from bench.arena import CONTENT, Arena
from bench.measure import ROUNDS, Aim, Race, Row, figure, tell
from schemas.context import Context, service_context
from schemas.delivery import Cause, State
from schemas.ids import AgentId, TenantId
from workers.broker.results import Move, Settlement
from workers.broker.rules import Pool
from workers.broker.scripts import Scripts
from workers.ids import new_message_id

TRIAL = "take and settle in Redis"
FEW_WAITING, FEW_TENANTS, MANY_TENANTS = 1_000, 10, 10_000
AUDITED = 20_000
"""The most that the audit reads here."""
UNIT = "µs of CPU"
BATCH, BATCHES = 50, 20
OWNER = "bench"
LEASE_MS = 60_000
RECIPIENTS = 10_000
MICROSECONDS = 1e6
MUCH: Aim = ("<=", 1.3)


async def run(arena: Arena, *, waiting: int) -> list[Row]:
    """The scripts alone, without any process of ours: a thousand deliveries are taken and settled."""
    few, much = f"{FEW_WAITING:,} waiting", f"{waiting:,} waiting"

    async def waits(number: int) -> float:
        async with arena.round() as one:
            # The audit would read them all; the no-op trial's goes over the same scripts.
            one.audits = number <= AUDITED
            await _fill(arena, TENANT, number)
            return await _micros(arena, [TENANT], number)

    backlog = Race(
        TRIAL,
        UNIT,
        {few: lambda: waits(FEW_WAITING), much: lambda: waits(waiting)},
        beside={much: few},
        aims={much: MUCH},
    )
    return [*await backlog.run(), *await _among_tenants(arena)]


async def _among_tenants(arena: Arena) -> list[Row]:
    """Ten tenants, then the same ten among ten thousand: registering these takes too long to do it in turns."""
    samples: dict[str, list[float]] = {}
    async with arena.round() as one:
        busy = [f"tenant-{number}" for number in range(FEW_TENANTS)]
        one.tenants += busy
        for number in (FEW_TENANTS, MANY_TENANTS):
            await _register(arena, range(FEW_TENANTS if number == MANY_TENANTS else 0, number))
            said = f"{number:,} tenants"
            for _ in range(ROUNDS):
                for tenant in busy:
                    await _fill(arena, tenant, BATCH * BATCHES // FEW_TENANTS)
                samples.setdefault(said, []).append(await _micros(arena, busy, BATCH * BATCHES))
                tell(f"{TRIAL}: {said}: {samples[said][-1]:.4g} µs")
    (few, its), (many, own) = samples.items()
    ratios = tuple(mine / other for mine, other in zip(own, its, strict=True))
    return [figure(TRIAL, few, UNIT, its), Row(TRIAL, many, UNIT, tuple(own), few, ratios, MUCH)]


async def _register(arena: Arena, numbers: Sequence[int]) -> None:
    for first in range(0, len(numbers), BATCH):
        await asyncio.gather(*(arena.tenant(f"tenant-{number}") for number in numbers[first : first + BATCH]))


async def _fill(arena: Arena, tenant: TenantId, number: int) -> None:
    """Lets so many deliveries wait, by the scripts of a message to many: the quickest way there is."""
    context, scripts = service_context(tenant, "bench"), Scripts(arena.client)
    await scripts.hold_stream(context, owner=OWNER, lease_ms=LEASE_MS * 10)
    for first in range(0, number, RECIPIENTS):
        message_id = new_message_id()
        published = await scripts.publish(
            context, message_id=message_id, digest="bench", envelope=CONTENT, size=len(CONTENT)
        )
        entry_id = await _entry(arena, context, message_id)
        some = min(RECIPIENTS, number - first)
        move = Move(
            entry_id=entry_id,
            message_id=message_id,
            digest="bench",
            envelope=CONTENT,
            size=len(CONTENT),
            rank=2,
            not_before_ms=None,
            expires_at_ms=None,
            recipients=tuple((_agent(first + one), ()) for one in range(some)),
        )
        if published.status != "accepted" or await scripts.snapshot(context, owner=OWNER, move=move) != "taken":
            raise RuntimeError("the backlog could not be made")
        left = some
        while left:
            answer = await scripts.expand(
                context, owner=OWNER, entry_id=entry_id, message_id=message_id, limit=BATCH, seed=""
            )
            left = answer.left


_IDS: dict[int, AgentId] = {}


def _agent(number: int) -> AgentId:
    return _IDS.setdefault(number % RECIPIENTS, agent_id(number % RECIPIENTS))


async def _entry(arena: Arena, context: Context, message_id: str) -> str:
    found: bytes = await arena.client.hget(arena.message_key(context, message_id), "entry")
    return found.decode()


async def _micros(arena: Arena, tenants: Sequence[TenantId], waiting: int) -> float:
    """Takes and settles a part of what waits, a batch of each tenant in turn; Redis' time for each."""
    scripts = Scripts(arena.client)

    wanted = min(BATCH * BATCHES, waiting)
    before, done, number = await arena.script_seconds(), 0, 0
    while done < wanted:
        context = service_context(tenants[number % len(tenants)], "bench")
        number += 1
        batch = await scripts.take(context, owner=OWNER, pool=Pool.STANDARD, limit=BATCH, lease_ms=LEASE_MS)
        settlements = [
            Settlement(taken.id, taken.agent, taken.token, State.DELIVERED, Cause.REPLIED, reply="ok")
            for taken in batch.taken
        ]
        if settlements:
            await scripts.settle(context, seed="", settlements=settlements)
        done += len(settlements)
        if number > wanted:
            raise RuntimeError("there is less to take than was laid out")
    return (await arena.script_seconds() - before) / done * MICROSECONDS
