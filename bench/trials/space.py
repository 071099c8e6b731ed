"""Bytes in Redis for what waits: beside the content, for a message to one agent and for one to many."""

from collections import defaultdict

from bench.agents import TENANT
from bench.arena import CONTENT, Arena
from bench.measure import Aim, Row, figure, tell
from bench.peers import STREAM, arq_pool
from schemas.address import SelectorAddress
from workers.bus.client import TenantClient

TRIAL = "bytes in Redis, each"
MESSAGES = 5_000
AIM: Aim = ("<=", 400.0)


async def run(arena: Arena) -> list[Row]:
    """Once: memory does not vary. The events of each, which are kept for days, are counted apart."""
    samples: dict[str, float] = {}
    async with arena.round() as one:
        await one.start("dispatcher")
        await one.publish(1)
        await arena.until("waiting", 1)
        before = await _held(arena)
        await one.publish(MESSAGES)
        await arena.until("waiting", MESSAGES + 1)
        samples |= _each("a waiting message to one", before, await _held(arena), MESSAGES, len(CONTENT))
    samples |= await _of_many(arena)
    samples |= await _of_peers(arena)
    for what, found in samples.items():
        tell(f"{TRIAL}: {what}: {found:.0f}")
    aimed = {"a waiting message to one", "a waiting delivery of one to many"}
    return [figure(TRIAL, what, "bytes", [found], AIM if what in aimed else None) for what, found in samples.items()]


async def _of_many(arena: Arena) -> dict[str, float]:
    async with (
        arena.round(agents=MESSAGES) as one,
        TenantClient.open(arena.url, tenant=TENANT, principal="bench", operator=True) as client,
    ):
        await one.start("dispatcher")
        await one.publish(1)
        await arena.until("waiting", 1)
        before = await _held(arena)
        await client.send(SelectorAddress(name="*", at_most=MESSAGES), CONTENT)
        await arena.until("waiting", MESSAGES + 1)
        return _each("a waiting delivery of one to many", before, await _held(arena), MESSAGES, 0)


async def _of_peers(arena: Arena) -> dict[str, float]:
    found: defaultdict[str, float] = defaultdict(float)
    async with arena.round():
        before = await arena.used_bytes()
        for _ in range(MESSAGES):
            await arena.client.xadd(STREAM, {"message": CONTENT})
        found["an entry of a raw stream"] = (await arena.used_bytes() - before) / MESSAGES - len(CONTENT)
    async with arena.round():
        pool = await arq_pool(arena.url)
        before = await arena.used_bytes()
        for _ in range(MESSAGES // 5):
            await pool.enqueue_job("job", CONTENT)
        found["a job of arq"] = (await arena.used_bytes() - before) / (MESSAGES // 5) - len(CONTENT)
        await pool.aclose()
    return found


async def _held(arena: Arena) -> tuple[int, int]:
    events = await arena.events_bytes()
    return await arena.used_bytes() - events, events


def _each(what: str, before: tuple[int, int], after: tuple[int, int], number: int, content: int) -> dict[str, float]:
    return {
        what: (after[0] - before[0]) / number - content,
        f"the events of {what}": (after[1] - before[1]) / number,
    }
