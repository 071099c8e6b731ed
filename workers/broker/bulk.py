"""The scripts of messages to many: bulk sends and gathered replies. Each one typed coroutine of its script's name."""

from collections.abc import Sequence

from schemas.context import Context
from schemas.ids import DeliveryId, MessageId
from workers.broker.results import Expanded, Move
from workers.broker.runner import Runner, pools
from workers.broker.runner import text as as_text

NAMES = ("snapshot", "expand", "pause", "resume", "gather")


class BulkScripts(Runner):
    """What one message to many needs beside the path of every message."""

    async def snapshot(self, context: Context, *, owner: str, move: Move) -> str:
        """Takes a message's recipients down, once. `taken`, `expanding`, or why not, as for a dispatch."""
        recipients = (f"{agent}|{','.join(teams)}" for agent, teams in move.recipients)
        return as_text(await self._run(context, "snapshot", owner, *move.as_arguments(), *recipients))

    async def expand(
        self, context: Context, *, owner: str, entry_id: str, message_id: MessageId, limit: int, seed: str
    ) -> Expanded:
        """Makes up to `limit` deliveries of a message whose recipients were taken down."""
        status, left, next_look, *rung = await self._run(context, "expand", owner, entry_id, message_id, limit, seed)
        return Expanded(as_text(status), int(left), int(next_look), pools(rung))

    async def pause(self, context: Context, *, message_id: MessageId) -> str:
        """Lets no further turn of a message begin. `paused`, `already`, `ended` or `not_found`."""
        return as_text(await self._run(context, "pause", message_id))

    async def resume(self, context: Context, *, message_id: MessageId) -> tuple[str, int]:
        """Lets it go on. `resumed`, `already` or `not_found`, and when to look at the tenant, 0 for never."""
        status, next_look = await self._run(context, "resume", message_id)
        return as_text(status), int(next_look)

    async def gather(
        self,
        context: Context,
        *,
        message_id: MessageId,
        text: str = "",
        forward_id: MessageId = "",
        forward_digest: str = "",
        forward_envelope: str = "",
        deliveries: Sequence[DeliveryId] = (),
    ) -> tuple[str, int]:
        """Closes a gathering with the replies of these deliveries, which read together as `text`.

        `gathered`, `early` or `gone`, and when to look at the tenant, 0 for never.
        """
        arguments = (message_id, text, forward_id, forward_digest, forward_envelope, *deliveries)
        status, next_look = await self._run(context, "gather", *arguments)
        return as_text(status), int(next_look)
