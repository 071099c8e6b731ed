"""From XADD to the request at the stub: with nothing else to do, and at half of what the worker can do."""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable

from bench.agents import TENANT, agent_id
from bench.arena import AGENTS, Arena, Child
from bench.measure import ROUNDS, Aim, Row, figure, percentile, tell
from bench.peers import ARQ_POLL_SECONDS, STREAM, arq_pool
from schemas.context import service_context
from workers.broker import keys

TRIAL = "latency to the request"
IDLE_MESSAGES, IDLE_PAUSE_SECONDS = 60, 0.03
LOADED_MESSAGES = 600
SLOW_ARQ_MESSAGES = 20
WARM_UP = 200
AIMS: dict[str, Aim] = {
    "Postroom, idle, p50": ("<=", 2.5),
    "Postroom, idle, p99": ("<=", 6.0),
    "Postroom, half load, p99": ("<=", 25.0),
}
Send = Callable[[int], Awaitable[object]]


async def run(arena: Arena) -> list[Row]:
    """Postroom, arq with a short poll and as it comes, and a loop over a stream; each calls by letta-client."""
    samples: defaultdict[str, list[float]] = defaultdict(list)
    for number in range(ROUNDS):
        for contender in (_postroom, _stream, _arq_polling, _arq):
            for name, milliseconds in (await contender(arena)).items():
                samples[name].append(milliseconds)
                tell(f"{TRIAL}: {name}: {milliseconds:.3g} ms ({number + 1} of {ROUNDS})")
    return [figure(TRIAL, name, "ms", found, AIMS.get(name)) for name, found in samples.items()]


async def _postroom(arena: Arena) -> dict[str, float]:
    tasks = keys.of(service_context(TENANT, "bench")).tasks

    async def send(number: int) -> None:
        to = {"agent": agent_id(number % AGENTS)}
        await arena.client.xadd(tasks, {"message": json.dumps({"to": to, "content": _stamped()})})

    async with arena.round() as one:
        stub = await one.start("stub")
        await one.start("dispatcher")
        await one.start("worker", letta_base_url=stub.ready["url"])
        await one.publish(WARM_UP)
        began = time.monotonic()
        await arena.until("delivered", 1)
        ended = await arena.until("delivered", WARM_UP)
        idle = await _paced(stub, send, IDLE_MESSAGES, IDLE_PAUSE_SECONDS)
        loaded = await _paced(stub, send, LOADED_MESSAGES, 2 * (ended - began) / WARM_UP)
        await arena.until("delivered", WARM_UP + IDLE_MESSAGES + LOADED_MESSAGES)
    return {**_told("Postroom, idle", idle), **_told("Postroom, half load", loaded)}


async def _stream(arena: Arena) -> dict[str, float]:
    async with arena.round() as one:
        stub = await one.start("stub")
        await one.start("stream", url=stub.ready["url"])
        waits = await _paced(
            stub,
            lambda _: arena.client.xadd(STREAM, {"message": _stamped()}),
            IDLE_MESSAGES,
            IDLE_PAUSE_SECONDS,
        )
    return _told("raw stream loop, idle", waits)


async def _arq_polling(arena: Arena) -> dict[str, float]:
    waits = await _arq_waits(arena, IDLE_MESSAGES, ARQ_POLL_SECONDS)
    return _told("arq at a poll of 10 ms, idle", waits)


async def _arq(arena: Arena) -> dict[str, float]:
    return _told("arq by default, idle", await _arq_waits(arena, SLOW_ARQ_MESSAGES, 0.5))


async def _arq_waits(arena: Arena, messages: int, poll_seconds: float) -> list[float]:
    async with arena.round() as one:
        stub = await one.start("stub")
        await one.start("arq", url=stub.ready["url"], poll_seconds=poll_seconds)
        pool = await arq_pool(arena.url)
        waits = await _paced(stub, lambda _: pool.enqueue_job("job", _stamped()), messages, IDLE_PAUSE_SECONDS)
        await pool.aclose()
    return waits


def _stamped() -> str:
    return f"@{time.monotonic():.6f} what is new?"


async def _paced(stub: Child, send: Send, messages: int, pause_seconds: float) -> list[float]:
    """Sends one by one, whatever becomes of them, and gathers how long each was under way."""
    await stub.ask()
    next_at = time.monotonic()
    for number in range(messages):
        await send(number)
        next_at = max(next_at + pause_seconds, time.monotonic())
        await asyncio.sleep(next_at - time.monotonic())
    waits: list[float] = []
    over_at = time.monotonic() + 30
    while len(waits) < messages and time.monotonic() < over_at:
        waits += (await stub.ask())["waits"]
        await asyncio.sleep(0.02)
    return waits


def _told(who: str, waits: list[float]) -> dict[str, float]:
    return {f"{who}, p50": 1000 * percentile(waits, 0.5), f"{who}, p99": 1000 * percentile(waits, 0.99)}
