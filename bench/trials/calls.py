"""Calls a second through letta-client against a fast local stub, at rising numbers in flight, beside bare loops."""

import time

from bench.arena import AGENTS, Arena, Child, Round
from bench.measure import Aim, Contender, Race, Row

TRIAL = "letta-client calls"
ONE_SECOND = {500: 1.0}
"""How long turns take at a number in flight; 0 at the others: then it is the client that is measured."""
IN_FLIGHT = (32, 100, 300, 500)
STREAMED = 100
SECONDS = 1.5
MESSAGES_A_SECOND = 600
"""How much work is laid out for Postroom: about what a bare loop does in that time."""
DEFAULT, RAISED, OURS = "bare loop, default transport", "bare loop, aiohttp", "Postroom"
KEPT: Aim = (">=", 0.95)


async def run(arena: Arena) -> list[Row]:
    """The same call everywhere: the blocking one, and once the stream that servers with runs are asked for."""
    rows = []
    for in_flight in IN_FLIGHT:
        rows += await _at(arena, in_flight, streams=False)
    return [*rows, *await _at(arena, STREAMED, streams=True)]


async def _at(arena: Arena, in_flight: int, *, streams: bool) -> list[Row]:
    turn_seconds = ONE_SECOND.get(in_flight, 0.0)
    said = f"{in_flight} in flight" + (", streamed" if streams else "") + (", turns of 1 s" if turn_seconds else "")
    async with arena.round(agents=max(AGENTS, 2 * in_flight)) as one:
        stub = await one.start("stub", delay_seconds=turn_seconds, streams=streams)
        url = stub.ready["url"]
        peers = {
            DEFAULT: await one.start("bare", url=url, transport="httpx", streams=streams),
            RAISED: await one.start("bare", url=url, transport="aiohttp", streams=streams),
        }
        await one.start("dispatcher")
        await one.start("worker", letta_base_url=url, in_flight=in_flight)
        seconds = SECONDS + 2 * turn_seconds
        ours, default, raised = f"{OURS}, {said}", f"{DEFAULT}, {said}", f"{RAISED}, {said}"
        await _ours(one, in_flight)
        race = Race(
            TRIAL,
            "a second",
            {
                default: _bare(peers[DEFAULT], in_flight, seconds),
                raised: _bare(peers[RAISED], in_flight, seconds),
                ours: lambda: _ours(one, max(int(MESSAGES_A_SECOND * SECONDS), 3 * in_flight)),
            },
            beside={ours: raised, default: raised},
            aims={ours: KEPT},
        )
        return await race.run()


def _bare(child: Child, in_flight: int, seconds: float) -> Contender:
    async def contender() -> float:
        done = await child.ask(in_flight=in_flight, seconds=seconds)
        return float(done["done"] / done["seconds"])

    return contender


async def _ours(one: Round, messages: int) -> float:
    already = await one.arena.count("delivered")
    began = time.monotonic()
    await one.publish(messages)
    return messages / (await one.arena.until("delivered", already + messages) - began)
