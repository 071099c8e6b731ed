"""The services themselves: from start to the first delivery, memory idle and under load, and what idling costs."""

import asyncio
import time
from collections import defaultdict

from bench.arena import Arena, Child
from bench.measure import ROUNDS, Aim, Row, figure, tell

TRIAL = "services"
QUIET_TENANTS = 1_000
IDLE_SECONDS = 5.0
LOAD = 1_500
STARTS = "start of both services to the first delivery"
AIMS: dict[str, Aim] = {
    STARTS: ("<=", 2.0),
    "worker, idle, memory": ("<=", 80.0),
    f"worker, idle with {QUIET_TENANTS:,} quiet tenants": ("<=", 1.0),
}


async def run(arena: Arena) -> list[Row]:
    """With the stub as the Letta server, so that the client's memory is in it."""
    samples: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for found in (await _started(arena), await _held(arena)):
            for (what, unit), value in found.items():
                samples[what, unit].append(value)
                tell(f"{TRIAL}: {what}: {value:.3g} {unit}")
    return [figure(TRIAL, what, unit, found, AIMS.get(what)) for (what, unit), found in samples.items()]


async def _started(arena: Arena) -> dict[tuple[str, str], float]:
    async with arena.round() as one:
        stub = await one.start("stub")
        await one.publish(1)
        began = time.monotonic()
        await asyncio.gather(
            one.start("dispatcher", cold=True, letta_base_url=stub.ready["url"]),
            one.start("worker", cold=True, letta_base_url=stub.ready["url"]),
        )
        return {(STARTS, "s"): await arena.until("delivered", 1) - began}


async def _held(arena: Arena) -> dict[tuple[str, str], float]:
    async with arena.round() as one:
        for number in range(QUIET_TENANTS):
            await arena.tenant(f"quiet-{number}")
        stub = await one.start("stub")
        services = (
            await one.start("dispatcher", cold=True),
            await one.start("worker", cold=True, letta_base_url=stub.ready["url"]),
        )
        await one.publish(1)
        await arena.until("delivered", 1)
        found = {(f"{one.role}, idle, memory", "MB"): one.resident_mb for one in services}
        found |= await _idling(services)
        await one.publish(LOAD)
        await arena.until("delivered", LOAD)
        return found | {(f"{one.role}, under load, memory", "MB"): one.resident_mb for one in services}


async def _idling(services: tuple[Child, ...]) -> dict[tuple[str, str], float]:
    await asyncio.sleep(1)
    before = [one.cpu_seconds for one in services]
    await asyncio.sleep(IDLE_SECONDS)
    return {
        (f"{one.role}, idle with {QUIET_TENANTS:,} quiet tenants", "% of a core"): 100
        * (one.cpu_seconds - had)
        / IDLE_SECONDS
        for one, had in zip(services, before, strict=True)
    }
