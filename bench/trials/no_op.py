"""No-op deliveries a second: what is left when a turn takes no time at all; and what each costs, process by process."""

from bench.arena import CONTENT, Arena
from bench.costs import Costs
from bench.measure import Aim, Race, Row, figure
from bench.peers import BATCH, STREAM, arq_pool

TRIAL = "no-op deliveries"
MESSAGES, ARQ_JOBS, ENTRIES = 2_000, 750, 15_000
WARM_UP = 300
IN_FLIGHT = 256
WHOLE, HALF, ARQ, LOOP = "whole path", "its worker alone", "arq, one job for each", "raw stream loop"
COST = "cost of a no-op delivery"
AIM: Aim = (">=", 10_000)


async def run(arena: Arena) -> list[Row]:
    """The whole path, from the stream to the receipt, and its second half, beside arq and a bare stream."""
    costs = Costs(COST)
    race = Race(
        TRIAL,
        "a second",
        {
            WHOLE: lambda: _whole_path(arena, costs),
            HALF: lambda: _worker_alone(arena),
            ARQ: lambda: _arq(arena, costs),
            LOOP: lambda: _loop(arena, costs),
        },
        beside={WHOLE: ARQ, HALF: ARQ, LOOP: ARQ},
    )
    rows = await race.run()
    # The aim is of the rate itself, not of the ratio.
    absolute = figure(TRIAL, f"{WHOLE}, as a rate", "a second", rows[0].samples, AIM)
    return [*rows, absolute, *costs.rows()]


async def _whole_path(arena: Arena, costs: Costs) -> float:
    async with arena.round() as one:
        children = await one.start("dispatcher"), await one.start("worker", in_flight=IN_FLIGHT)
        await one.publish(WARM_UP)
        began = await arena.until("delivered", WARM_UP)
        async with costs.of("postroom", arena, MESSAGES, *children):
            await one.publish(MESSAGES)
            ended = await arena.until("delivered", WARM_UP + MESSAGES)
        return MESSAGES / (ended - began)


async def _worker_alone(arena: Arena) -> float:
    async with arena.round() as one:
        dispatcher = await one.start("dispatcher")
        await one.publish(WARM_UP + MESSAGES)
        await arena.until("waiting", WARM_UP + MESSAGES)
        await dispatcher.end()
        await one.start("worker", in_flight=IN_FLIGHT)
        began = await arena.until("delivered", WARM_UP)
        already = await arena.count("delivered")
        return (WARM_UP + MESSAGES - already) / (await arena.until("delivered", WARM_UP + MESSAGES) - began)


async def _arq(arena: Arena, costs: Costs) -> float:
    async with arena.round() as one:
        worker = await one.start("arq")
        pool = await arq_pool(arena.url)
        for _ in range(ARQ_JOBS):
            await pool.enqueue_job("job", CONTENT)
        await pool.aclose()
        async with costs.of("arq", arena, ARQ_JOBS, worker):
            done = await worker.ask()
        return float(done["done"] / done["seconds"])


async def _loop(arena: Arena, costs: Costs) -> float:
    async with arena.round() as one:
        worker = await one.start("stream")
        for _ in range(ENTRIES // BATCH):
            async with arena.client.pipeline(transaction=False) as pipe:
                for _ in range(BATCH):
                    pipe.xadd(STREAM, {"message": CONTENT})
                await pipe.execute()
        async with costs.of("raw stream", arena, ENTRIES, worker):
            done = await worker.ask()
        return float(done["done"] / done["seconds"])
