"""Where trials run: a private Redis, a tenant, and children that end with the trial."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.agents import TENANT, agent_id
from bench.measure import tell
from console.embedded import EmbeddedRedis
from schemas.context import Context, Operator, service_context
from schemas.ids import MessageId, TenantId
from schemas.tenant import Limits
from workers.broker import keys
from workers.broker.client import Client, close, connect
from workers.clock import SystemClock
from workers.directory.tenants import Tenants
from workers.mailbox.audit import audit
from workers.settings import load

Document = dict[str, Any]

OPERATOR = Operator("bench")
AGENTS = 1_000
CONTENT = "A short message of the kind that agents send to each other all day: what is new, what next?"
BOUNDLESS = Limits(
    per_minute=1_000_000,
    team_per_minute=1_000_000,
    agent_per_minute=1_000_000,
    in_flight=100_000,
    max_bytes=4 * 1024 * 1024 * 1024,
)
"""No limit holds anything back; each is still counted."""
CHUNK = 500
LOOK_SECONDS = 0.005
PATIENCE_SECONDS = 60.0
STOP_SECONDS = 5.0
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
LINE_BYTES = 64 * 1024 * 1024
CHILD = (sys.executable, "-m", "bench.child")


class BenchError(Exception):
    """Something went wrong that makes the figures worthless."""


@dataclass(slots=True)
class Child:
    """One process of bench/child.py."""

    role: str
    pid: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    ready: Document = field(default_factory=dict)

    async def ask(self, **asked: Any) -> Document:
        """One line to it, one line back.

        Raises:
            BenchError: it ended instead.
        """
        self.writer.write(json.dumps(asked).encode() + b"\n")
        return await self.heard()

    async def heard(self) -> Document:
        """What it says next.

        Raises:
            BenchError: it ended instead.
        """
        line = await self.reader.readline()
        if not line:
            raise BenchError(f"{self.role} (process {self.pid}) ended by itself")
        said: Document = json.loads(line)
        return said

    async def end(self) -> None:
        """Ends it: by the end of its connection, then by its process id."""
        if self.writer.is_closing():
            return
        with contextlib.suppress(ConnectionError):
            self.writer.write_eof()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self.reader.read()
            except TimeoutError:
                os.kill(self.pid, signal.SIGKILL)
        self.writer.close()

    @property
    def resident_mb(self) -> float:
        """Its memory, as the kernel counts it."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:"))

    @property
    def cpu_seconds(self) -> float:
        """The processor time that it has had."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


@dataclass(frozen=True, slots=True)
class Spent:
    """Processor time, in seconds: the one figure that a busy machine does not change."""

    redis: float
    commands: int
    children: dict[str, float]

    def since(self, before: "Spent") -> "Spent":
        """What was added."""
        children = {role: seconds - before.children.get(role, 0.0) for role, seconds in self.children.items()}
        return Spent(self.redis - before.redis, self.commands - before.commands, children)


class Arena:
    """One private Redis, and what runs on it."""

    def __init__(self, redis: EmbeddedRedis, client: Client, nursery: "Nursery") -> None:
        self.url = redis.url
        self.client = client
        self.nursery = nursery
        self.context: Context = service_context(TENANT, "bench")

    @asynccontextmanager
    async def round(self, *, agents: int = AGENTS) -> AsyncIterator["Round"]:
        """An empty Redis with one tenant. At the end every child is ended, and the ledger must add up.

        Raises:
            BenchError: a child ended by itself, or the audit found something.
        """
        await self.client.flushall()
        await self.client.config_resetstat()
        await self.tenant(TENANT)
        one = Round(self, agents)
        try:
            yield one
            await one.audited()
        finally:
            await asyncio.gather(*(child.end() for child in one.children))

    async def tenant(self, name: TenantId) -> None:
        """Registers one."""
        await Tenants(self.client).create(OPERATOR, name, BOUNDLESS, now_ms=SystemClock().now_ms())

    async def count(self, name: str, context: Context | None = None) -> int:
        """One of the tenant's counters."""
        return int(await self.client.hget(keys.of(context or self.context).counters, name) or 0)

    async def until(self, name: str, number: int, *, context: Context | None = None) -> float:
        """Waits for a counter; the answer is the time at which it was there.

        Raises:
            BenchError: it does not come.
        """
        over_at = time.monotonic() + PATIENCE_SECONDS
        while (now := time.monotonic()) < over_at:
            if await self.count(name, context) >= number:
                return now
            await asyncio.sleep(LOOK_SECONDS)
        raise BenchError(f"{name} is {await self.count(name, context)} after {PATIENCE_SECONDS:g} s, not {number}")

    async def spent(self, *children: Child) -> "Spent":
        """What Redis and these children have had so far."""
        return Spent(await self.cpu_seconds(), await self.commands(), {one.role: one.cpu_seconds for one in children})

    async def used_bytes(self) -> int:
        """What Redis holds."""
        return int((await self.client.info("memory"))["used_memory"])

    async def cpu_seconds(self) -> float:
        """The processor time that Redis has had."""
        info = await self.client.info("cpu")
        return float(info["used_cpu_sys"]) + float(info["used_cpu_user"])

    async def script_seconds(self) -> float:
        """The time that Redis has spent in scripts."""
        stats = await self.client.info("commandstats")
        return float(sum(int(one["usec"]) for name, one in stats.items() if name == "cmdstat_evalsha")) / 1e6

    async def events_bytes(self) -> int:
        """What the tenant's events take."""
        return int(await self.client.memory_usage(keys.of(self.context).events, samples=0) or 0)

    def message_key(self, context: Context, message_id: MessageId) -> str:
        """Where a message's record is."""
        return keys.of(context).message(message_id)

    async def commands(self) -> int:
        """How many commands Redis has run, those inside scripts among them."""
        stats = await self.client.info("commandstats")
        return sum(int(one["calls"]) for one in stats.values())


class Nursery:
    """Starts children, and waits until they call."""

    def __init__(self, folder: Path) -> None:
        self._address = str(folder / "bench.sock")
        self._server: asyncio.Server | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._callers: dict[int, asyncio.Future[tuple[int, asyncio.StreamReader, asyncio.StreamWriter]]] = {}
        self._cold: list[asyncio.subprocess.Process] = []

    async def start(self) -> None:
        """Starts what forks them."""
        self._server = await asyncio.start_unix_server(self._called, self._address, limit=LINE_BYTES)
        self._process = await asyncio.create_subprocess_exec(
            *CHILD, stdin=asyncio.subprocess.PIPE, start_new_session=True
        )

    async def child(self, role: str, options: Document, *, cold: bool) -> Child:
        """A new one.

        Raises:
            BenchError: it does not call.
        """
        number = len(self._callers)
        calling = self._callers[number] = asyncio.get_running_loop().create_future()
        told = json.dumps({"address": self._address, "number": number, "role": role, "options": options})
        if cold:
            # Ctrl-C is for the bench: it ends them.
            self._cold.append(await asyncio.create_subprocess_exec(*CHILD, told, start_new_session=True))
        elif self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(told.encode() + b"\n")
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                pid, reader, writer = await calling
        except TimeoutError:
            raise BenchError(f"{role} did not start within {PATIENCE_SECONDS:g} s") from None
        return Child(role, pid, reader, writer)

    async def stop(self) -> None:
        """Ends what is left."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        for process in (*self._cold, *([self._process] if self._process else [])):
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._server is not None:
            self._server.close()

    async def _called(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = json.loads(await reader.readline())
        self._callers[said["number"]].set_result((int(said["pid"]), reader, writer))


@dataclass(slots=True)
class Round:
    """One round of a trial."""

    arena: Arena
    agents: int
    children: list[Child] = field(default_factory=list)
    tenants: list[TenantId] = field(default_factory=lambda: [TENANT])
    audits: bool = True

    async def start(self, role: str, *, cold: bool = False, **options: Any) -> Child:
        """Starts a child and waits until it is ready; `cold`: as a program of its own, as services start."""
        given = {"redis_url": self.arena.url, "agents": self.agents, **options}
        child = await self.arena.nursery.child(role, given, cold=cold)
        self.children.append(child)
        child.ready = await child.heard()
        return child

    async def publish(self, number: int, *, content: str = CONTENT, tenant: TenantId = TENANT) -> None:
        """Puts so many messages on the stream, as any producer may: to every agent in turn."""
        tasks = keys.of(service_context(tenant, "bench")).tasks
        envelopes = [json.dumps({"to": {"agent": agent_id(one)}, "content": content}) for one in range(self.agents)]
        for first in range(0, number, CHUNK):
            async with self.arena.client.pipeline(transaction=False) as pipe:
                for one in range(first, min(number, first + CHUNK)):
                    pipe.xadd(tasks, {"message": envelopes[one % self.agents]})
                await pipe.execute()

    async def audited(self) -> None:
        """Every message of the round is in exactly one state, and all that names it agrees.

        Raises:
            BenchError: not so.
        """
        if not self.audits:
            return
        for tenant in self.tenants:
            found = await audit(
                service_context(tenant, "bench"), self.arena.client, SystemClock(), rules=load().rules()
            )
            if found:
                raise BenchError(f"the audit found {len(found)} things, the first: {found[0]}")


@asynccontextmanager
async def arena() -> AsyncIterator[Arena]:
    """A private Redis in a folder that goes with it.

    Raises:
        ConfigurationError: there is none to start.
    """
    with tempfile.TemporaryDirectory(prefix="postroom-bench-") as folder:
        redis, nursery = EmbeddedRedis(Path(folder)), Nursery(Path(folder))
        await redis.start()
        client = connect(redis.url)
        try:
            # A rewrite in the middle of a round would be measured with it.
            await client.config_set("auto-aof-rewrite-percentage", "0")
            tell(f"a private Redis is up: {redis.binary.path}, with its append-only file, on {redis.url}")
            await nursery.start()
            yield Arena(redis, client, nursery)
        finally:
            await nursery.stop()
            with contextlib.suppress(Exception):
                await close(client)
            await redis.stop()
