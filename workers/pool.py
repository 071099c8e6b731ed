"""arq's part: it runs `drain(tenant)` jobs, first come first served, and stops gracefully. It holds no truth.

`PoolWorker` is arq's Worker with the answers to HAZARDS.md section 1: our pool and serializer, no results, no
hooks, no aborts, no crons, a poll that is woken by the bell and that rests while there is no room for a turn, and
a service around it (`PoolService`) that outlives Redis.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

from arq.connections import ArqRedis
from arq.typing import WorkerCoroutine
from arq.worker import Worker, func

from schemas.context import Context, service_context
from schemas.ids import TenantId
from workers.broker import keys
from workers.broker.arq import DRAIN, connect_arq, deserialize, is_job_id, serialize
from workers.broker.client import BLOCK_SECONDS, REDIS_AWAY, close
from workers.resources import Resources
from workers.service import Service
from workers.tasks import end
from workers.turn.drain import SLICE_SECONDS, Drain, Hands
from workers.turn.slots import Slots

POLL_SECONDS = 0.5
"""arq's own poll, for what the bell did not say."""
QUEUE_READ_LIMIT = 5_000
"""More than the drains of a whole fleet: arq never looks past its first so many jobs (HAZARDS.md A9)."""
DRAIN_MARGIN_SECONDS = 10.0
"""A drain takes for its slice; past this it is stuck in Redis, and arq cuts it."""
CLAIMED_SECONDS = 3.0
"""How long arq keeps others from a drain that began. By itself it would for the timeout and ten seconds (HAZARDS.md
A4), and a killed worker would hold up its tenants for as long, whoever else is there. Two drains where one is
slow do no harm: the ledger gives each delivery to one of them."""

Drainer = Callable[[Context], Awaitable[None]]


class PoolWorker(Worker):
    """One arq worker of one pool."""

    def __init__(self, arq: ArqRedis, slots: Slots, size: int, timeout_seconds: float, drain: Drainer) -> None:
        async def run_drain(_ctx: dict[Any, Any], tenant: TenantId) -> None:
            await drain(service_context(tenant, f"pool-{slots.pool}"))

        super().__init__(
            functions=[
                func(
                    cast("WorkerCoroutine", run_drain),
                    name=DRAIN,
                    keep_result=0,
                    timeout=timeout_seconds,
                    max_tries=1_000,
                )
            ],
            queue_name=arq.default_queue_name,
            redis_pool=arq,
            handle_signals=False,
            max_jobs=size,
            job_timeout=timeout_seconds,
            keep_result=0,
            poll_delay=POLL_SECONDS,
            queue_read_limit=QUEUE_READ_LIMIT,
            allow_abort_jobs=False,
            log_results=False,
            job_serializer=serialize,
            job_deserializer=deserialize,
        )
        self.in_progress_timeout_s = CLAIMED_SECONDS
        self._slots = slots
        self.bell = asyncio.Event()

    async def poll(self) -> None:
        """Starts what the queue holds, as long as there is room for a turn.

        Raises:
            RedisError, OSError: Redis is away; what runs goes on.
        """
        self.bell.clear()
        self.allow_pick_jobs = self._slots.free > 0
        await self._poll_iteration()

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Quarantines what arq would stumble over, and starts no more drains than there are slots."""
        if job_ids:
            # Not by us: arq neither runs nor removes a score of 0, which would count as a rival for ever (A22), and
            # stumbles at every poll over one without an end, before all that is behind it.
            await self.pool.zremrangebyscore(self.queue_name, "-inf", 0)
        good = [raw for raw in job_ids if is_job_id(raw)]
        if len(good) < len(job_ids):
            await self.pool.zrem(self.queue_name, *(raw for raw in job_ids if not is_job_id(raw)))
        waiting = [raw for raw in good if raw.decode() not in self.tasks]
        self._slots.rivals = max(0, len(waiting) - 1)
        running = self.job_counter
        for raw in waiting:
            if self.job_counter - running >= self._slots.free:
                break
            await super().start_jobs([raw])

    async def heart_beat(self) -> None:
        """Ours is Heartbeat; arq's own is written once an hour (HAZARDS.md A25)."""

    async def doze(self, stopping: asyncio.Event) -> None:
        """Until the bell rings, a slot comes free, the end, or the next poll."""
        waits = {
            asyncio.create_task(self.bell.wait()),
            asyncio.create_task(stopping.wait()),
            *([] if self._slots.free else [asyncio.create_task(self._slots.changed(POLL_SECONDS))]),
        }
        try:
            await asyncio.wait(waits, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(*waits)


class PoolService(Service):
    """One pool of this process. What a step raises is waited out; turns that run go on meanwhile."""

    def __init__(self, resources: Resources, arq_url: str, slots: Slots, hands: Hands) -> None:
        super().__init__(resources)
        self.name = f"pool-{slots.pool}"
        self.slots = slots
        self._hands = hands
        self._turns: set[asyncio.Task[None]] = set()
        self._arq = connect_arq(arq_url, pool=slots.pool)
        size = resources.settings.turns(slots.pool)
        self._worker = PoolWorker(self._arq, slots, size, SLICE_SECONDS + DRAIN_MARGIN_SECONDS, self._drain)
        self._listening: asyncio.Task[None] | None = None

    async def prepare(self) -> None:
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen(), name=f"bell-{self.slots.pool}")

    async def step(self) -> None:
        await self._worker.poll()
        await self._worker.doze(self._stopping)

    async def finish(self) -> None:
        """Picks nothing up any more, and lets what runs finish; what does not within the grace is cut."""
        if self._listening is not None:
            await end(self._listening)
        try:
            for running in (set(self._worker.tasks.values()), self._turns):
                if running:
                    await asyncio.wait(running)
        finally:
            # A turn that is cut stays in the ledger, its fate open: whoever takes it next looks first.
            await end(*self._worker.tasks.values(), *self._turns)
            await close(self._arq)

    def wake(self) -> None:
        self._worker.bell.set()

    async def _drain(self, context: Context) -> None:
        """Total: whatever happens is logged, and the sweeper finds what is left (HAZARDS.md A7)."""
        log = self.resources.log.of(context)
        try:
            await Drain(context, self.slots, self._hands, self._turns).run(self._stopping)
        except asyncio.CancelledError:
            # By arq, past its timeout (Redis hung, or this process was frozen), or by the end of a stop's grace.
            log.warning("drain cut")
        except REDIS_AWAY as error:
            log.warning("drain cut", error_type=type(error).__name__)
        except Exception:
            log.exception("drain failed")

    async def _listen(self) -> None:
        """Hears the bell. Deaf is slow, not broken: arq polls anyway."""
        while True:
            try:
                async with self._arq.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(keys.bell(self.slots.pool))
                    # What rang before we listened.
                    self._worker.bell.set()
                    while True:
                        if await channel.get_message(timeout=BLOCK_SECONDS) is not None:
                            self._worker.bell.set()
            except REDIS_AWAY:
                await self.resources.clock.sleep(POLL_SECONDS)
