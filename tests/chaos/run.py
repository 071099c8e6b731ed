"""Runs faults: those of one plan one after the other on one rig, the plans side by side."""

import asyncio
import os
import random
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from tests.chaos.account import Account, account, waiting
from tests.chaos.load import Load
from tests.chaos.rig import Plan, Rig, rig
from tests.chaos.scene import Fault, Scale, Scene, drained
from tests.chaos.table import Row

ACCOUNT_SECONDS = 60.0


def say(text: str) -> None:
    """Progress, for people."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


async def run_all(
    faults: Sequence[Fault], scale: Scale, seed: int, binary: str, at_once: int, *, rows: dict[str, Row]
) -> None:
    """Every fault once. What is over stands in `rows`, also where the rest is cut."""
    groups: defaultdict[Plan, list[Fault]] = defaultdict(list)
    for fault in faults:
        groups[fault.plan_for(scale)].append(fault)
    gate = asyncio.Semaphore(at_once)

    async def group(plan: Plan, own: list[Fault]) -> None:
        async with gate:
            await _one_after_the_other(plan, own, scale, seed, binary, rows=rows)

    async with asyncio.TaskGroup() as tasks:
        # The longest first: the others fit beside it.
        for plan, own in sorted(groups.items(), key=lambda pair: -len(pair[1])):
            tasks.create_task(group(plan, own))


async def _one_after_the_other(
    plan: Plan, faults: list[Fault], scale: Scale, seed: int, binary: str, *, rows: dict[str, Row]
) -> None:
    left = list(faults)
    while left:
        async with AsyncExitStack() as stack:
            one = await stack.enter_async_context(rig(plan, binary))
            while left:
                fault = left.pop(0)
                say(f"{fault.name}: {fault.title}")
                rows[fault.name] = row = await _one(one, fault, scale, seed)
                say(f"{fault.name}: {row.verdict} ({row.seconds:.0f} s)")
                if not row.holds:
                    _keep_logs(one, fault)
                    # What it left behind is not the next one's.
                    break


async def _one(rig: Rig, fault: Fault, scale: Scale, seed: int) -> Row:
    which = 0 if scale.quick else 1
    prefix = fault.name.lower().replace(" ", "-").replace("(", "").replace(")", "")
    load = Load(
        rig,
        prefix,
        fault.messages[which],
        fault.per_second[which],
        fault.delay_seconds,
        dict(fault.options),
        only=fault.only,
    )
    scene = Scene(rig, load, scale, random.Random(f"{seed} {fault.name}"))
    began = time.monotonic()
    done, what = Account(), ""
    try:
        async with asyncio.timeout(fault.limit_seconds[which]):
            what = await _struck(scene, fault)
    except TimeoutError:
        scene.broken.append(f"not over within {fault.limit_seconds[which]:g} s")
    except Exception as error:  # noqa: BLE001  # whatever it is, the other rows are worth having
        scene.broken.append(f"{type(error).__name__}: {error}")
    try:
        async with asyncio.timeout(ACCOUNT_SECONDS):
            done = await account(rig, load, scene.strikes)
        for check in scene.checks:
            check(done)
    except Exception as error:  # noqa: BLE001  # the same
        scene.broken.append(f"cannot be accounted for: {type(error).__name__}: {error}")
    return Row.of(fault, scene, done, what or fault.title, time.monotonic() - began)


async def _struck(scene: Scene, fault: Fault) -> str:
    rig, load = scene.rig, scene.load
    loading = asyncio.create_task(load.run())
    try:
        what = await fault.act(scene)
        load.over.set()
        await loading
    finally:
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
    await rig.restore()
    await drained(lambda: waiting(rig, load))
    # The last settlement is written before its process has let go of it.
    await drained(rig.running_now)
    return what


def _keep_logs(rig: Rig, fault: Fault) -> None:
    """What the processes said, where POSTROOM_CHAOS_KEEP names a folder for it."""
    if folder := os.environ.get("POSTROOM_CHAOS_KEEP"):
        target = Path(folder) / fault.name.replace(" ", "-")
        target.mkdir(parents=True, exist_ok=True)
        for path in rig.fleet.folder.iterdir():
            if path.is_file():
                shutil.copy(path, target)
