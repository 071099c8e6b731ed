"""A bulk send: its recipients are taken down once, then its deliveries made, some at a time.

The entry stays on the stream until the last one is made, and nothing behind it is moved before: order on the stream
is order in the mailboxes. Whoever owns the stream after a crash reads the entry, and goes on where it stood.
"""

import asyncio

from schemas.context import Context
from workers.dispatch.route import Bulk
from workers.failpoints import Point, hit
from workers.ids import new_seed
from workers.mailbox.ring import Bells
from workers.resources import Resources

STEP = 50
"""Deliveries made in one script call: Redis serves others in between."""


class Expander:
    """One for a dispatcher."""

    def __init__(self, resources: Resources, bells: Bells) -> None:
        self._resources = resources
        self._bells = bells

    async def expand(self, context: Context, bulk: Bulk) -> str:
        """Makes every delivery of a bulk send. `moved`, or why not, as for a dispatch.

        Raises:
            RedisError, OSError: Redis is away; the entry is still on the stream.
        """
        scripts, owner = self._resources.scripts, self._resources.process_id
        if bulk.move is not None:
            status = await scripts.snapshot(context, owner=owner, move=bulk.move)
            if status not in {"taken", "expanding"}:
                return status
            hit(Point.AFTER_SNAPSHOT)
            log = self._resources.log.of(context)
            log.info("recipients taken down", message=bulk.message_id, recipients=len(bulk.move.recipients))
        while True:
            seed = new_seed()
            answer = await scripts.expand(
                context,
                owner=owner,
                entry_id=bulk.entry_id,
                message_id=bulk.message_id,
                limit=STEP,
                seed=seed,
            )
            await self._bells.ring(context, answer.pools, seed)
            if answer.status == "lost":
                return "lost"
            if answer.left == 0:
                await self._bells.note(context, answer.next_look_ms)
                return "moved"
            hit(Point.IN_EXPAND)
            # Redis answers faster than a loop turns: the other tenants' batches go on, too.
            await asyncio.sleep(0)
