"""F42: everything at random, by seed, several at once, under a load that does not stop."""

import asyncio
import signal
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from tests.chaos.rig import Plan
from tests.chaos.scene import Fault, Scene
from workers.failpoints import ALLOWED, VARIABLE, Point

Blow = Callable[[Scene], Coroutine[Any, Any, None]]
PAUSE_SECONDS = (1.0, 5.0)
POOL_POINTS = (Point.AFTER_TAKE, Point.BEFORE_CALL, Point.AFTER_CALL, Point.BEFORE_SETTLE, Point.AFTER_SETTLE)


async def kill_a_pool(scene: Scene) -> None:
    name = scene.random.choice(scene.rig.pools)
    await scene.strike()
    await _end(scene, name, signal.SIGKILL)


async def stop_a_pool(scene: Scene) -> None:
    await _end(scene, scene.random.choice(scene.rig.pools), signal.SIGTERM)


async def kill_a_dispatcher(scene: Scene) -> None:
    name = scene.random.choice(scene.rig.dispatchers)
    await scene.strike("stream")
    await _end(scene, name, signal.SIGKILL)


async def kill_a_pool_at_a_point(scene: Scene) -> None:
    name = scene.random.choice(scene.rig.pools)
    point = scene.random.choice(POOL_POINTS)
    environment = {VARIABLE: f"{point}:kill@{scene.random.randint(1, 8)}", ALLOWED: "1"}
    await _end(scene, name, signal.SIGTERM, **environment)


async def freeze_a_pool(scene: Scene) -> None:
    process = scene.rig.fleet.processes.get(scene.random.choice(scene.rig.pools))
    if process is not None and process.poll() is None:
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(scene.random.uniform(1, 18))
        process.send_signal(signal.SIGCONT)


async def kill_redis(scene: Scene) -> None:
    await asyncio.to_thread(scene.rig.server.kill)
    await asyncio.to_thread(scene.rig.server.start)


async def freeze_redis(scene: Scene) -> None:
    scene.rig.server.signal(signal.SIGSTOP)
    await asyncio.sleep(scene.random.uniform(0.5, 7))
    scene.rig.server.signal(signal.SIGCONT)


async def cut_redis(scene: Scene) -> None:
    scene.rig.redis.answers_to_lose = scene.random.randint(0, 5)
    await asyncio.sleep(0.2)
    scene.rig.redis.reset()


async def stall_redis(scene: Scene) -> None:
    scene.rig.redis.stall()
    await asyncio.sleep(scene.random.uniform(0.5, 7))
    scene.rig.redis.mend()


async def cut_letta(scene: Scene) -> None:
    scene.rig.letta.answers_to_lose = scene.random.randint(0, 5)
    await asyncio.sleep(0.2)
    scene.rig.letta.reset()


async def lose_letta(scene: Scene) -> None:
    scene.rig.letta.refuses = True
    scene.rig.letta.reset()
    await asyncio.sleep(scene.random.uniform(0.5, 4))
    scene.rig.letta.mend()


async def fail_letta(scene: Scene) -> None:
    await scene.rig.behave(fail_status=scene.random.choice((500, 503, 429)), retry_after_seconds=1)
    await asyncio.sleep(scene.random.uniform(0.5, 3))
    await scene.rig.behave()


async def crowd_letta(scene: Scene) -> None:
    await scene.rig.behave(busy_times=scene.random.randint(1, 10))


BLOWS: tuple[Blow, ...] = (
    kill_a_pool,
    kill_a_pool,
    kill_a_pool_at_a_point,
    stop_a_pool,
    kill_a_dispatcher,
    freeze_a_pool,
    kill_redis,
    freeze_redis,
    cut_redis,
    stall_redis,
    cut_letta,
    lose_letta,
    fail_letta,
    crowd_letta,
)


async def _end(scene: Scene, name: str, number: signal.Signals, **environment: str) -> None:
    """Ends a process and starts it again, as its supervisor would; one that has ended by itself, too."""
    if scene.rig.is_alive(name):
        await scene.rig.kill(name, number)
    else:
        scene.rig.fleet.processes.pop(name, None)
    scene.rig.start(name, **environment)


async def supervise(scene: Scene) -> None:
    """What has ended at a fail-point is started again."""
    while True:
        for name in scene.rig.dead():
            process = scene.rig.fleet.processes.get(name)
            if process is None:
                continue
            code = process.returncode
            scene.require(code in {0, -signal.SIGKILL}, f"{name} ended by itself with {code}")
            scene.rig.fleet.processes.pop(name, None)
            scene.rig.start(name)
        await asyncio.sleep(0.5)


async def soak(scene: Scene) -> str:
    """Blow after blow, some while the one before still lasts."""
    seconds = scene.scale.pick(30, 180)
    over_at = asyncio.get_running_loop().time() + seconds
    struck: Counter[str] = Counter()
    lasting: set[asyncio.Task[None]] = set()
    busy: set[str] = set()
    supervisor = asyncio.create_task(supervise(scene))
    try:
        while asyncio.get_running_loop().time() < over_at:
            blow = scene.random.choice(BLOWS)
            kind = blow.__name__.rpartition("_")[2]
            pause = scene.random.uniform(*PAUSE_SECONDS)
            if kind not in busy:
                # One at a time of what is one: two hands on one process would only be the rig's own trouble.
                busy.add(kind)
                struck[blow.__name__] += 1
                task = asyncio.create_task(blow(scene))
                lasting.add(task)
                task.add_done_callback(lambda _, kind=kind: busy.discard(kind))  # type: ignore[misc]
            await asyncio.sleep(pause)
        await asyncio.gather(*lasting)
    finally:
        for task in (supervisor, *lasting):
            task.cancel()
        await asyncio.gather(supervisor, *lasting, return_exceptions=True)
    told = ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in sorted(struck.items()))
    return f"at random for {seconds:g} s, {struck.total()} blows: {told}"


FAULTS = [
    Fault(
        "F42",
        "soak",
        soak,
        plan=Plan(tenants=3, agents=30, pools=3, dispatchers=2),
        messages=(100, 100),
        per_second=(8, 12),
        extra_calls=None,
        quick=False,
        limit_seconds=(200, 480),
        p95_seconds=60,
        recovery_seconds=60,
    ),
]
