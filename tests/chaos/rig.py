"""One Postroom to be broken: a real Redis, the services as processes, a sandbox Letta, and proxies between them."""

import asyncio
import contextlib
import json
import os
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from schemas.context import Context, Operator
from schemas.tenant import Limits
from tests.chaos.proxy import Proxy
from tests.support.fleet import Fleet
from tests.support.redis_server import RedisServer
from tests.support.waiting import until
from workers.broker import keys
from workers.broker.client import Client, close, connect
from workers.directory.tenants import Tenants

OPERATOR = Operator("chaos")
ALL_POOLS = ("serve", "pool", "express", "standard", "bulk")
START_SECONDS = 180
HIGH = 1_000_000
"""A rate that limits nothing."""


@dataclass(frozen=True)
class Plan:
    """What a rig is made of. Faults that ask for the same share one."""

    mode: str = "joins"
    tenants: int = 2
    agents: int = 12
    """In all, shared out over the tenants."""
    pools: int = 2
    dispatchers: int = 1
    parent: bool = False
    """Whether `postroom serve fleet` starts the pools and dispatchers, and buries its dead."""
    fsync: str = "always"
    deadline_seconds: float = 60
    twin: int = 0
    """Rigs that differ in this alone stand side by side."""
    limits: tuple[tuple[str, int], ...] = ()
    """Of the first tenant; the others have none that matter."""
    settings: tuple[tuple[str, str], ...] = (
        ("POSTROOM_BACKOFF_BASE_SECONDS", "1"),
        ("POSTROOM_MAX_ATTEMPTS", "12"),
    )
    """With attempts enough for the longest time that the server is away."""


@dataclass
class Rig:
    """A running one. Every process is ended by its id."""

    plan: Plan
    server: RedisServer
    fleet: Fleet
    redis: Proxy
    letta: Proxy
    client: Client
    """Straight to Redis, past the proxy."""
    admin: httpx.AsyncClient
    """Straight to the sandbox."""
    tenants: dict[str, list[str]] = field(default_factory=dict)
    """Each with the names of its agents."""
    ids: dict[str, str] = field(default_factory=dict)
    """Agent by name."""
    meant_to_run: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Redis as the services and the producers see it."""
        return f"redis://127.0.0.1:{self.redis.port}/0"

    @property
    def pools(self) -> list[str]:
        return [name for name in self.meant_to_run if name.startswith("pool")]

    @property
    def dispatchers(self) -> list[str]:
        return [name for name in self.meant_to_run if name.startswith("dispatcher")]

    def contexts(self) -> list[Context]:
        return [OPERATOR.for_tenant(tenant) for tenant in self.tenants]

    def start(self, name: str, **environment: str) -> None:
        """Starts a service by its name, as it was meant to run."""
        self.fleet.start(name, *self.meant_to_run[name], **environment)

    async def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        return await asyncio.to_thread(self.fleet.kill, name, number)

    def dead(self) -> list[str]:
        """The services that should run and do not."""
        return [name for name in self.meant_to_run if name not in self.fleet.processes or not self.is_alive(name)]

    def is_alive(self, name: str) -> bool:
        return name in self.fleet.processes and self.fleet.is_running(name)

    async def restore(self) -> None:
        """All is well again: proxies, Redis, the sandbox's behaviour, every process."""
        self.redis.mend()
        self.letta.mend()
        for process in self.fleet.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
        if self.server.process is None or self.server.process.poll() is not None:
            await asyncio.to_thread(self.server.start)
        self.server.signal(signal.SIGCONT)
        await self.behave()
        for name in self.dead():
            self.fleet.processes.pop(name, None)
            self.start(name)

    async def behave(self, agent: str | None = None, **faults: Any) -> None:
        """What the sandbox, or one agent of it by name, does wrong; nothing: no more."""
        path = f"agents/{self.ids[agent]}/behaviour" if agent else "behaviour"
        answer = await self.admin.post(f"/_sandbox/{path}", json=faults)
        answer.raise_for_status()

    async def running_now(self) -> int:
        """Deliveries under a lease, in all tenants."""
        async with self.client.pipeline(transaction=False) as pipe:
            for context in self.contexts():
                pipe.zcard(keys.of(context).leases)
            return sum(await pipe.execute())

    async def holders(self) -> Counter[str]:
        """How many leases each pool has, by its name; those of processes that are gone are left out."""
        names = {process.pid: name for name, process in self.fleet.processes.items()}
        return Counter({names[pid]: held for pid, held in (await self.holding()).items() if pid in names})

    async def holding(self) -> Counter[int]:
        """How many leases each process has, by its pid."""
        pids = {sign["process"]: int(sign["pid"]) for sign in await self.signs()}
        found: Counter[int] = Counter()
        for context in self.contexts():
            for holder in await self.client.hvals(keys.of(context).holders):
                if (pid := pids.get(holder.decode().split("|")[2])) is not None:
                    found[pid] += 1
        return found

    def turns_begun(self) -> int:
        """As the sandbox wrote them down."""
        return self.fleet.turn_log.read_bytes().count(b'"event":"begun"')

    async def now_ms(self) -> int:
        """By Redis' clock, which is what events are told by."""
        seconds, micros = await self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def make_agents(self) -> None:
        for number in range(self.plan.tenants):
            tenant = f"chaos-{number}"
            count = self.plan.agents // self.plan.tenants
            body = {"count": count, "prefix": tenant, "tags": [f"tenant:{tenant}"]}
            (await self.admin.post("/_sandbox/agents", json=body)).raise_for_status()
            self.tenants[tenant] = [f"{tenant}-{one}" for one in range(count)]
            limits = {"per_minute": HIGH, "team_per_minute": HIGH, "agent_per_minute": HIGH, "in_flight": 1000}
            own = dict(self.plan.limits) if number == 0 else {}
            await Tenants(self.client).create(OPERATOR, tenant, Limits(**{**limits, **own}), now_ms=1)
        listed = (await self.admin.get("/v1/agents/", params={"limit": 5000})).json()
        self.ids = {one["name"]: one["id"] for one in listed}

    async def start_services(self) -> None:
        plan = self.plan
        if plan.parent:
            sizes = ("--dispatchers", str(plan.dispatchers), "--pools", str(plan.pools))
            self.meant_to_run = {"fleet": ("serve", "fleet", *sizes)}
        else:
            self.meant_to_run = {
                **{f"dispatcher-{n + 1}": ("serve", "dispatcher") for n in range(plan.dispatchers)},
                **{f"pool-{n + 1}": ALL_POOLS for n in range(plan.pools)},
            }
        for name in self.meant_to_run:
            self.start(name)
        await until(self.all_ready, within=START_SECONDS, every=0.2)

    async def all_ready(self) -> bool:
        """Whether as many processes as there should be tell Redis that they are ready."""
        ready = [sign for sign in await self.signs() if sign["services"] and all(sign["services"].values())]
        return len(ready) >= self.plan.dispatchers + self.plan.pools

    async def signs(self) -> list[dict[str, Any]]:
        """What the processes tell of themselves."""
        signs = [await self.client.get(key) async for key in self.client.scan_iter(match=keys.process("*"))]
        return [json.loads(sign) for sign in signs if sign]

    async def end(self) -> None:
        """At once, and without regard: nothing of it is needed any more."""
        children = [pid for process in self.fleet.processes.values() for pid in children_of(process.pid)]
        for process in self.fleet.processes.values():
            process.kill()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.fleet.processes.values():
            await asyncio.to_thread(process.wait)
        await self.admin.aclose()
        await close(self.client)
        await self.redis.stop()
        await self.letta.stop()
        await asyncio.to_thread(self.server.stop)


def children_of(pid: int) -> list[int]:
    """The processes that a process of ours has started."""
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@asynccontextmanager
async def rig(plan: Plan, binary: str) -> AsyncIterator[Rig]:
    """A rig with everything ready; ended whatever happens."""
    with tempfile.TemporaryDirectory(prefix="postroom-chaos-") as folder:
        server = RedisServer(binary, extra=("--appendfsync", plan.fsync))
        fleet = Fleet(server, Path(folder))
        redis, letta = Proxy(server.port), Proxy(fleet.letta_port)
        admin = httpx.AsyncClient(base_url=f"http://127.0.0.1:{fleet.letta_port}", trust_env=False, timeout=30)
        one = Rig(plan, server, fleet, redis, letta, connect(server.url), admin)
        try:
            await redis.start()
            await letta.start()
            fleet.settings = {
                "POSTROOM_REDIS_URL": one.url,
                "LETTA_BASE_URL": f"http://127.0.0.1:{letta.port}",
                "POSTROOM_ACCEPT_LOSS": "false",
                "POSTROOM_TURN_DEADLINE_SECONDS": str(plan.deadline_seconds),
                **dict(plan.settings),
            }
            await asyncio.to_thread(server.start)
            await asyncio.to_thread(fleet.start_letta, plan.mode)
            await one.make_agents()
            await one.start_services()
            yield one
        finally:
            await asyncio.shield(asyncio.ensure_future(one.end()))
