"""How fast one client publishes: one message after the other, and a hundred at once."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

from bench.agents import TENANT, agent_id
from bench.arena import CONTENT, Arena
from bench.measure import Contender, Race, Row
from bench.peers import STREAM, arq_pool
from workers.bus.client import TenantClient

TRIAL = "publish, one client"
MESSAGES, AT_ONCE = 600, 100
SINGLE, TOGETHER = "one by one", "100 at once"
Send = Callable[[int], Awaitable[object]]


async def run(arena: Arena) -> list[Row]:
    """Postroom's client, which validates and gets a receipt, beside arq's and a bare XADD."""

    async def postroom(rate: Callable[[Send], Awaitable[float]]) -> float:
        async with (
            arena.round(agents=1),
            TenantClient.open(arena.url, tenant=TENANT, principal="bench") as client,
        ):
            return await rate(lambda _: client.send(agent_id(0), CONTENT))

    async def arq(rate: Callable[[Send], Awaitable[float]]) -> float:
        async with arena.round(agents=1):
            pool = await arq_pool(arena.url)
            found = await rate(lambda _: pool.enqueue_job("job", CONTENT))
            await pool.aclose()
            return found

    async def xadd(rate: Callable[[Send], Awaitable[float]]) -> float:
        wire = json.dumps({"to": {"agent": agent_id(0)}, "content": CONTENT})
        async with arena.round(agents=1):
            return await rate(lambda _: arena.client.xadd(STREAM, {"message": wire}))

    def contender(of: Callable[[Callable[[Send], Awaitable[float]]], Awaitable[float]], at_once: int) -> Contender:
        async def rate(send: Send) -> float:
            return await _rate(send, at_once)

        return lambda: of(rate)

    contenders: dict[str, Contender] = {}
    beside: dict[str, str] = {}
    for said, at_once in ((SINGLE, 1), (TOGETHER, AT_ONCE)):
        for name, of in (("Postroom", postroom), ("arq", arq), ("bare XADD", xadd)):
            contenders[f"{name}, {said}"] = contender(of, at_once)
        beside |= {f"Postroom, {said}": f"arq, {said}", f"bare XADD, {said}": f"arq, {said}"}
    return await Race(TRIAL, "a second", contenders, beside).run()


async def _rate(send: Send, at_once: int) -> float:
    await send(0)
    began = time.monotonic()
    for first in range(0, MESSAGES, at_once):
        await asyncio.gather(*(send(number) for number in range(first, first + at_once)))
    return MESSAGES / (time.monotonic() - began)
