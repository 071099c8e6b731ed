"""Processes that die: pools, dispatchers, all of them at once, and at the worst moments."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

from tests.chaos.account import Account
from tests.chaos.rig import Plan
from tests.chaos.scene import Act, Fault, Scene
from workers.failpoints import ALLOWED, VARIABLE, Point

JOINS = Plan()
MANY = Plan(tenants=3, agents=51, pools=4)
"""FAULTS.md's own figures."""
SLOTS = 10
"""The extra calls that one death may cost."""


async def kill_pools(scene: Scene) -> str:
    """F01: kill -9 in mid-call."""
    times = scene.scale.count(1, 20)
    for n in range(times):
        name = await scene.busy_pool()
        await asyncio.sleep(scene.random.uniform(0, 0.3))
        await scene.strike()
        await scene.rig.kill(name)
        scene.rig.start(name)
        if n + 1 < times:
            await asyncio.sleep(scene.random.uniform(1.5, 3))
    return f"kill -9 of 1 of {len(scene.rig.pools)} pools in mid-call, {_times(times)}"


async def kill_children(scene: Scene) -> str:
    """F01 where a parent waits for its children, and frees at once what a dead one held."""
    times = scene.scale.count(2, 20)
    for _ in range(times):
        pid = await scene.busy_child()
        await asyncio.sleep(scene.random.uniform(0, 0.3))
        await scene.strike()
        os.kill(pid, signal.SIGKILL)
        # A spare has been started by then; who kills faster measures how fast Python starts.
        await asyncio.sleep(scene.random.uniform(3, 5))
    scene.nobody_died()
    return f"kill -9 of a pool under `postroom serve fleet` in mid-call, {_times(times)}"


async def kill_parent(scene: Scene) -> str:
    """F01: the parent, and one of its children at once: nobody is left to bury it."""
    pid = await scene.busy_child()
    await scene.strike()
    await scene.rig.kill("fleet")
    os.kill(pid, signal.SIGKILL)
    scene.rig.start("fleet")
    return "kill -9 of `postroom serve fleet` and of a pool under it at once"


async def kill_pool_unknown(scene: Scene) -> str:
    """F01 where the server can tell nothing: what ends unknown is listed for a person."""
    scene.allowed_to_end = ("delivered", "unknown")
    what = await kill_pools(scene)

    def told(done: Account) -> None:
        scene.notes.append(f"{done.ends['unknown']} ended as unknown")

    scene.checks.append(told)
    return what


def at_point(point: Point, most: int) -> Act:
    """F02, F03 and their neighbours: kill -9 at one named place."""

    async def act(scene: Scene) -> str:
        name = scene.random.choice(scene.rig.pools)
        await scene.rig.kill(name, signal.SIGTERM)
        number = scene.random.randint(2, most)
        scene.rig.start(name, **{VARIABLE: f"{point}:kill@{number}", ALLOWED: "1"})
        await scene.fall(name)
        await scene.strike()
        scene.rig.start(name)
        return f"kill -9 of a pool at the fail-point {point} (the {number}. time)"

    return act


def dispatcher_at_point(point: Point) -> Act:
    """F04: kill -9 around the one step that moves from the stream into mailboxes."""

    async def act(scene: Scene) -> str:
        name = scene.rig.dispatchers[0]
        await scene.rig.kill(name, signal.SIGTERM)
        number = scene.random.randint(2, 4)
        scene.rig.start(name, **{VARIABLE: f"{point}:kill@{number}", ALLOWED: "1"})
        await scene.fall(name)
        await scene.strike("stream")
        scene.rig.start(name)
        return f"kill -9 of the dispatcher at the fail-point {point} (the {number}. time)"

    return act


async def kill_all_pools(scene: Scene) -> str:
    """F05: every pool at once, and nobody for a while."""
    away = scene.scale.count(3, 60)
    await scene.in_flight(6)
    async with scene.outage():
        for name in scene.rig.pools:
            await scene.rig.kill(name)
        await asyncio.sleep(away)
    for name in scene.rig.pools:
        scene.rig.start(name)
    return f"kill -9 of all {len(scene.rig.pools)} pools at once, started again after {away} s"


async def freeze_pool(scene: Scene) -> str:
    """A neighbour of F01 and F09: a pool that was presumed dead comes back, between policies and call."""
    name = scene.rig.pools[0]
    await scene.rig.kill(name, signal.SIGTERM)
    number = scene.random.randint(2, 6)
    scene.rig.start(name, **{VARIABLE: f"{Point.BEFORE_CALL}:stop@{number}", ALLOWED: "1"})
    frozen = scene.rig.fleet.processes[name]
    while not await asyncio.to_thread(_is_stopped, frozen.pid):
        await asyncio.sleep(0.05)
    await scene.strike()
    await asyncio.sleep(18)
    frozen.send_signal(signal.SIGCONT)
    scene.nobody_died()
    return "a pool frozen just before a call, for 18 s: past its leases; then it goes on"


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


async def roll(scene: Scene) -> str:
    """F29: SIGTERM to each in turn, under load."""
    rounds = scene.scale.count(1, 3)
    slowest = 0.0
    for _ in range(rounds):
        for name in [*scene.rig.pools, *scene.rig.dispatchers]:
            await scene.in_flight(2)
            asked_at = asyncio.get_running_loop().time()
            code = await scene.rig.kill(name, signal.SIGTERM)
            slowest = max(slowest, asyncio.get_running_loop().time() - asked_at)
            scene.require(code == 0, f"{name} ended with {code}")
            scene.rig.start(name)
    scene.notes.append(f"the slowest stop took {slowest:.1f} s")
    scene.require(slowest <= scene.rig.plan.deadline_seconds + SLOTS, "a stop took too long")
    return f"rolling restart: SIGTERM to each pool and dispatcher in turn, {_times(rounds)}"


async def roll_impatiently(scene: Scene) -> str:
    """F29: SIGTERM, and kill -9 before the running turns are over."""
    name = await scene.busy_pool()
    process = scene.rig.fleet.processes[name]
    process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.5)
    await scene.strike()
    await scene.rig.kill(name)
    scene.rig.start(name)
    return "SIGTERM to a pool, then kill -9 while its turns were still running"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


LONG = 3.0
"""Seconds of a turn that is to outlast something."""

FAULTS = [
    Fault(
        "F01",
        "kill -9 of a pool in mid-call",
        kill_pools,
        plan=JOINS,
        full_plan=MANY,
        messages=(60, 2000),
        per_second=(15, 40),
        extra_calls=(SLOTS, 20 * SLOTS),
    ),
    Fault(
        "F01 runs",
        "the same on a server without Redis",
        kill_pools,
        plan=Plan(mode="runs"),
        extra_calls=(SLOTS, 20 * SLOTS),
    ),
    Fault(
        "F01 plain",
        "the same on a server that tells nothing, on_unknown = redeliver",
        kill_pools,
        plan=Plan(mode="plain"),
        messages=(60, 200),
        options=(("on_unknown", "redeliver"),),
        delay_seconds=1.0,
        doubled=2 * SLOTS,
        quick=False,
        extra_calls=(2 * SLOTS, 40 * SLOTS),
        p95_seconds=45,
        recovery_seconds=45,
    ),
    Fault(
        "F01 never",
        "the same, on_unknown = never_resend",
        kill_pool_unknown,
        plan=Plan(mode="plain"),
        messages=(60, 200),
        options=(("on_unknown", "never_resend"),),
        delay_seconds=1.0,
        extra_calls=(0, 0),
        p95_seconds=45,
        recovery_seconds=45,
    ),
    Fault(
        "F01 parent",
        "a pool dies under a parent",
        kill_children,
        plan=Plan(parent=True),
        messages=(60, 1200),
        per_second=(10, 15),
        delay_seconds=1.0,
        p95_seconds=2,
        busy_factor=8,
        extra_calls=(SLOTS, 20 * SLOTS),
    ),
    Fault(
        "F01 both",
        "a parent dies with a pool",
        kill_parent,
        plan=Plan(parent=True),
        messages=(60, 200),
        per_second=(10, 15),
        delay_seconds=1.0,
        extra_calls=(SLOTS, SLOTS),
        quick=False,
    ),
    Fault(
        "F02",
        "kill -9 between take and call",
        at_point(Point.AFTER_TAKE, 6),
        plan=replace(JOINS, twin=1),
        extra_calls=(0, 0),
    ),
    Fault(
        "F03",
        "kill -9 between answer and settlement",
        at_point(Point.AFTER_CALL, 6),
        plan=Plan(mode="runs"),
        extra_calls=(SLOTS, SLOTS),
    ),
    Fault(
        "F03 settled",
        "kill -9 just after a settlement",
        at_point(Point.AFTER_SETTLE, 6),
        plan=JOINS,
        extra_calls=(SLOTS, SLOTS),
        quick=False,
    ),
    Fault(
        "F04 before",
        "kill -9 of the dispatcher before it moves",
        dispatcher_at_point(Point.BEFORE_DISPATCH),
        plan=replace(JOINS, twin=2),
        extra_calls=(0, 0),
    ),
    Fault(
        "F04 after",
        "kill -9 of the dispatcher after it moved, before it rang",
        dispatcher_at_point(Point.AFTER_DISPATCH),
        plan=replace(JOINS, twin=2),
        extra_calls=(0, 0),
        quick=False,
    ),
    Fault(
        "F05",
        "all pools killed at once",
        kill_all_pools,
        plan=replace(JOINS, twin=1),
        messages=(60, 1000),
        per_second=(15, 25),
        extra_calls=(2 * SLOTS, 2 * SLOTS),
    ),
    Fault(
        "F09 frozen",
        "a pool frozen past its leases",
        freeze_pool,
        plan=JOINS,
        extra_calls=(SLOTS, SLOTS),
        quick=False,
    ),
    Fault(
        "F29",
        "rolling restarts",
        roll,
        plan=replace(JOINS, twin=2),
        messages=(80, 600),
        per_second=(8, 15),
        delay_seconds=0.8,
        extra_calls=(0, 0),
    ),
    Fault(
        "F29 forced",
        "SIGTERM, then kill -9",
        roll_impatiently,
        plan=JOINS,
        delay_seconds=LONG,
        messages=(40, 100),
        extra_calls=(SLOTS, SLOTS),
        quick=False,
    ),
]
