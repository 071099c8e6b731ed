"""Redis dies, hangs, pauses, or is cut off."""

import asyncio
import signal
from dataclasses import replace

from tests.chaos.rig import Plan
from tests.chaos.scene import Act, Fault, Scene

JOINS = Plan()
PUBLISH_SECONDS = 12.0
"""A publish that Redis does not confirm answers by then, with an error that says to try again: the last try begins
within 4 s and is cut after 5 s."""


async def kill_redis(scene: Scene) -> str:
    """F06: kill -9 of Redis, back at once on its AOF."""
    times = scene.scale.count(2, 10)
    first: list[float] = []
    for _ in range(times):
        await scene.in_flight(3)
        async with scene.outage():
            await asyncio.to_thread(scene.rig.server.kill)
            await asyncio.to_thread(scene.rig.server.start)
        first.append(await _first_turn(scene))
        await asyncio.sleep(scene.random.uniform(0.5, 1.5))
    scene.nobody_died()
    within = scene.scale.pick(10, 5)
    scene.require(max(first) <= within, f"the first turn after Redis was back took {max(first):.1f} s")
    scene.notes.append(f"first turn after at most {max(first):.1f} s, no process exited")
    return f"kill -9 of Redis (AOF, fsync {scene.rig.plan.fsync}), back at once, {times} times"


async def _first_turn(scene: Scene) -> float:
    """Seconds until the sandbox sees another turn begin."""
    before = scene.rig.turns_begun()
    began = asyncio.get_running_loop().time()
    while scene.rig.turns_begun() == before and asyncio.get_running_loop().time() < began + 30:
        await asyncio.sleep(0.05)
    return asyncio.get_running_loop().time() - began


def freeze_redis(quick: float, full: float) -> Act:
    """F09: SIGSTOP."""

    async def act(scene: Scene) -> str:
        seconds = scene.scale.pick(quick, full)
        await scene.in_flight(4)
        async with scene.outage():
            scene.rig.server.signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)
            scene.rig.server.signal(signal.SIGCONT)
        await _all_well(scene)
        return f"SIGSTOP of Redis for {seconds:g} s"

    return act


async def pause_redis(scene: Scene) -> str:
    """F09: CLIENT PAUSE."""
    seconds = scene.scale.pick(3, 10)
    await scene.in_flight(4)
    async with scene.outage():
        await scene.rig.client.execute_command("CLIENT", "PAUSE", int(seconds * 1000))
        await asyncio.sleep(seconds)
    await _all_well(scene)
    return f"CLIENT PAUSE for {seconds:g} s"


async def stall_link(scene: Scene) -> str:
    """A neighbour of F09: only the way is stalled, past every timeout."""
    seconds = scene.scale.pick(7, 20)
    await scene.in_flight(4)
    async with scene.outage():
        scene.rig.redis.stall()
        await asyncio.sleep(seconds)
        scene.rig.redis.mend()
    await _all_well(scene)
    return f"the way to Redis stalled for {seconds:g} s, connections open"


async def cut_link(scene: Scene) -> str:
    """Connections to Redis are reset, and answers lost on their way: what was done stays done."""
    times = scene.scale.count(5, 30)
    for _ in range(times):
        scene.rig.redis.answers_to_lose = scene.random.randint(1, 4)
        await asyncio.sleep(scene.random.uniform(0.1, 0.5))
        scene.rig.redis.reset()
        await asyncio.sleep(scene.random.uniform(0.1, 0.5))
    async with scene.outage():
        scene.rig.redis.refuses = True
        scene.rig.redis.reset()
        await asyncio.sleep(2)
        scene.rig.redis.mend()
    await _all_well(scene)
    return f"answers of Redis lost and its connections reset {times} times, then refused for 2 s"


async def _all_well(scene: Scene) -> None:
    took = await _first_turn(scene)
    within = scene.scale.pick(10, 5)
    scene.require(took <= within, f"the first turn after it took {took:.1f} s")
    scene.nobody_died()
    slowest = scene.load.slowest_seconds
    scene.require(slowest <= PUBLISH_SECONDS, f"a publish took {slowest:.1f} s to answer")
    scene.notes.append(f"a publish answered within {slowest:.1f} s, first turn after {took:.1f} s")


FAULTS = [
    Fault("F06", "kill -9 of Redis", kill_redis, plan=JOINS, messages=(80, 1000), extra_calls=(4, 20)),
    Fault(
        "F06 everysec",
        "the same with fsync everysec",
        kill_redis,
        plan=replace(JOINS, fsync="everysec"),
        messages=(80, 1000),
        extra_calls=(4, 20),
        quick=False,
    ),
    Fault(
        "F09",
        "Redis frozen",
        freeze_redis(6, 10),
        plan=replace(JOINS, twin=1),
        messages=(100, 600),
        per_second=(10, 30),
    ),
    Fault(
        "F09 long",
        "Redis frozen for longer than leases last",
        freeze_redis(20, 60),
        plan=replace(JOINS, twin=1),
        messages=(200, 1500),
        per_second=(10, 20),
        quick=False,
        limit_seconds=(120, 240),
    ),
    Fault("F09 pause", "CLIENT PAUSE", pause_redis, plan=JOINS, messages=(100, 600), per_second=(10, 30), quick=False),
    Fault(
        "F09 link",
        "the way to Redis stalled",
        stall_link,
        plan=JOINS,
        messages=(140, 900),
        per_second=(10, 30),
        quick=False,
    ),
    Fault(
        "F09 cut",
        "connections to Redis reset",
        cut_link,
        plan=replace(JOINS, twin=2),
        messages=(100, 800),
        per_second=(10, 25),
        extra_calls=(0, 0),
    ),
]
