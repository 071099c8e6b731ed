"""What a fault is, and what it may do to a rig while a load runs."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.account import Account, Strike
from tests.chaos.load import Load
from tests.chaos.rig import Plan, Rig, children_of
from tests.support.waiting import until

LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Scale:
    """How much: `quick` for every change, full for the table in docs/faults.md."""

    quick: bool

    def pick(self, quick: float, full: float) -> float:
        return quick if self.quick else full

    def count(self, quick: int, full: int) -> int:
        return quick if self.quick else full


@dataclass
class Scene:
    """One fault at work."""

    rig: Rig
    load: Load
    scale: Scale
    random: random.Random
    strikes: list[Strike] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """What was expected on the way, and was not so."""
    plot: str = ""
    """Drawn below the table."""
    allowed_to_end: tuple[str, ...] = ("delivered",)
    checks: list[Callable[[Account], None]] = field(default_factory=list)
    """Asked once all is accounted for; they call `require`."""

    def require(self, holds: bool, sentence: str) -> None:  # noqa: FBT001  # reads as an assertion
        if not holds:
            self.broken.append(sentence)

    async def in_flight(self, least: int = 4, within: float = 120) -> None:
        """Waits until so many turns run."""

        async def enough() -> bool:
            return await self.rig.running_now() >= least

        await until(enough, within, every=LOOK_SECONDS)

    async def busy_pool(self, least: int = 2, within: float = 120) -> str:
        """Waits for a pool with so many turns in flight; which one, where there are several, goes by the seed."""
        over_at = time.monotonic() + within
        while True:
            busy = sorted(name for name, held in (await self.rig.holders()).items() if held >= least)
            if busy:
                return self.random.choice(busy)
            assert time.monotonic() < over_at, f"no pool had {least} turns in flight within {within:g} s"
            await asyncio.sleep(LOOK_SECONDS)

    async def busy_child(self, least: int = 2, within: float = 120) -> int:
        """The same where a parent starts the pools: the child's pid."""
        over_at = time.monotonic() + within
        while True:
            busy = sorted(pid for pid, held in (await self.rig.holding()).items() if held >= least)
            alive = {child for name in self.rig.fleet.processes.values() for child in children_of(name.pid)}
            if fit := [pid for pid in busy if pid in alive]:
                return self.random.choice(fit)
            assert time.monotonic() < over_at, f"no child had {least} turns in flight within {within:g} s"
            await asyncio.sleep(LOOK_SECONDS)

    async def strike(self, what: str = "turns") -> None:
        """Now something is struck."""
        now = await self.rig.now_ms()
        self.strikes.append(Strike(now, now, what))

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        """Something is away for the length of the block."""
        began = await self.rig.now_ms()
        yield
        self.strikes.append(Strike(began, await self.rig.now_ms(), "outage"))

    async def fall(self, name: str, within: float = 150) -> None:
        """Waits until a process has died by itself."""
        await until(lambda: not self.rig.is_alive(name), within, every=LOOK_SECONDS)
        self.rig.fleet.processes.pop(name).wait()

    def nobody_died(self) -> None:
        """No process exited."""
        self.require(not self.rig.dead(), f"exited: {', '.join(self.rig.dead())}")


Act = Callable[[Scene], Awaitable[str]]
"""Does it, and says what was done."""


@dataclass(frozen=True)
class Fault:
    """One row of the table."""

    name: str
    title: str
    act: Act
    plan: Plan = field(default_factory=Plan)
    full_plan: Plan | None = None
    messages: tuple[int, int] = (60, 400)
    """Quick and full."""
    per_second: tuple[float, float] = (15, 40)
    delay_seconds: float = 0.4
    options: tuple[tuple[str, Any], ...] = ()
    quick: bool = True
    full: bool = True
    limit_seconds: tuple[float, float] = (180, 240)
    """The fault is over by then, or it does not hold."""
    lost: int = 0
    doubled: int = 0
    extra_calls: tuple[int, int] | None = (0, 0)
    """At most so many; None: the fault makes the server refuse, and calls are made again for that."""
    p95_seconds: float = 20.0
    recovery_seconds: float = 30.0
    busy_factor: float = 2.0
    """How much longer it may take in a quick run, whose machine may be busy."""
    only: tuple[str, ...] = ()

    def plan_for(self, scale: Scale) -> Plan:
        return self.plan if scale.quick or self.full_plan is None else self.full_plan


async def drained(look: Callable[[], Awaitable[int]], pause: float = 0.1) -> None:
    """Waits until nothing is left."""
    while await look():  # processes have no event for it
        await asyncio.sleep(pause)
