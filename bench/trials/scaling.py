"""Two worker processes beside one: where turns take their time, and where nothing but Postroom does."""

from typing import Any

from bench.arena import Arena
from bench.measure import Race, Row

TRIAL = "two worker processes"
WARM_UP = 100
SLOTS, TURN_SECONDS, MESSAGES = 32, 0.25, 384
NO_OPS = 1_000


async def run(arena: Arena) -> list[Row]:
    """Turns of a quarter of a second in 32 slots, 128 a second for each process at best; then no-ops."""

    async def rate(workers: int, messages: int, **options: Any) -> float:
        async with arena.round() as one:
            await one.start("dispatcher")
            for _ in range(workers):
                await one.start("worker", **options)
            await one.publish(WARM_UP)
            began = await arena.until("delivered", WARM_UP)
            await one.publish(messages)
            return messages / (await arena.until("delivered", WARM_UP + messages) - began)

    turns = {"in_flight": SLOTS, "turn_seconds": TURN_SECONDS}
    one, two = "one, turns of 0.25 s", "two, turns of 0.25 s"
    one_no_op, two_no_op = "one, no-ops", "two, no-ops"
    race = Race(
        TRIAL,
        "a second",
        {
            one: lambda: rate(1, MESSAGES, **turns),
            two: lambda: rate(2, MESSAGES, **turns),
            one_no_op: lambda: rate(1, NO_OPS, in_flight=256),
            two_no_op: lambda: rate(2, NO_OPS, in_flight=256),
        },
        beside={two: one, two_no_op: one_no_op},
        aims={two: (">=", 1.8)},
    )
    return await race.run()
