"""Ringing: wakes a pool for a tenant that has something to do.

A claim in the tenant's slot says that a drain is on its way; the arq job is the drain; the bell saves the wait
for arq's next poll. Losing any of it costs time, never work: the sweeper looks after every claim.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from arq.connections import ArqRedis

from schemas.context import Context
from workers.broker import agenda, keys
from workers.broker.arq import DRAIN, in_progress_key, job_id, job_key
from workers.broker.client import REDIS_AWAY
from workers.broker.rules import Pool
from workers.broker.scripts import Scripts
from workers.ids import new_seed
from workers.log import Log

ANY_SKEW = timedelta(days=1)
JOB_LIFE = timedelta(days=1)


class Bells:
    """Rings pools, and notes in the agenda when somebody should look again."""

    def __init__(self, arq: ArqRedis, scripts: Scripts, log: Log) -> None:
        self._arq = arq
        self._scripts = scripts
        self._log = log

    async def ring(self, context: Context, pools: Iterable[Pool], seed: str) -> None:
        """Queues the drains whose claims were just made under this seed."""
        for pool in dict.fromkeys(pools):
            try:
                await self._arq.enqueue_job(
                    DRAIN,
                    context.tenant,
                    _job_id=job_id(pool, seed),
                    _queue_name=keys.queue(pool),
                    _defer_until=await self._a_day_ago(),
                    _expires=JOB_LIFE,
                )
                await self._arq.publish(keys.bell(pool), context.tenant)
            except REDIS_AWAY as error:
                self._log.of(context).warning("ring failed", pool=pool, error_type=type(error).__name__)

    async def _a_day_ago(self) -> datetime:
        """First come first served by Redis' clock, and due by every host's: arq compares with the host's own
        (HAZARDS.md A21), so that one that is behind would not see the job, and one ahead would hide its own.
        """
        seconds, micros = await self._arq.time()
        return datetime.fromtimestamp(int(seconds) + int(micros) / 1_000_000, UTC) - ANY_SKEW

    async def hand_on(self, context: Context, pool: Pool) -> None:
        """Queues the tenant's next drain behind the other tenants'."""
        seed = new_seed()
        await self._scripts.ring(context, pool=pool, seed=seed)
        await self.ring(context, [pool], seed)

    async def is_coming(self, context: Context, pool: Pool, seed: str) -> bool:  # noqa: ARG002  # arq's keys bear no tenant
        """Whether arq still knows the drain of a claim."""
        return bool(await self._arq.exists(job_key(pool, seed)))

    async def has_begun(self, context: Context, pool: Pool, seed: str) -> bool:  # noqa: ARG002  # arq's keys bear no tenant
        """Whether some worker took the drain of a claim on, and has not ended it: it may have died with it."""
        return bool(await self._arq.exists(in_progress_key(pool, seed)))

    async def note(self, context: Context, next_look_ms: int) -> None:
        """Asks for a look at the tenant at that time, unless an earlier one is planned; 0 asks for none."""
        await agenda.note(context, self._scripts.client, next_look_ms)
