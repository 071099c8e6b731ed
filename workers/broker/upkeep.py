"""The scripts beside a message's path: dead letters, parking, acks, repairs, what the dead leave behind.

Each one typed coroutine of its name.
"""

from collections.abc import Sequence

from schemas.context import Context
from schemas.ids import AgentId, DeliveryId, MessageId
from workers.broker.results import Abandoned, Redriven
from workers.broker.runner import Runner, optional, pools, text

NAMES = (
    "ack",
    "redrive",
    "discard",
    "park",
    "unpark",
    "abandon",
    "note_away",
    "recount",
    "repair_agent",
    "repair_delivery",
    "repair_message",
)


class UpkeepScripts(Runner):
    """What puts right."""

    async def ack(self, context: Context, *, reader: str, message_ids: Sequence[MessageId]) -> tuple[str, ...]:
        """Marks messages as read by a reader: for each, `acked`, `already`, `not_over` or `not_found`."""
        return tuple(text(result) for result in await self._run(context, "ack", reader, *message_ids))

    async def redrive(self, context: Context, *, entry_id: str, ttl_ms: int | None) -> Redriven:
        """Puts one dead letter back where it can be delivered; a second time finds none."""
        status, next_look = await self._run(context, "redrive", entry_id, optional(ttl_ms))
        return Redriven(text(status), int(next_look))

    async def discard(self, context: Context, *, entry_id: str) -> str:
        """Gives one dead letter up. `discarded` or `gone`."""
        return text(await self._run(context, "discard", entry_id))

    async def park(self, context: Context, *, agent: AgentId, by: str, why: str) -> str:
        """Lets no further turn of an agent begin, until it is unparked. `parked`, `already` or `gone`."""
        return text(await self._run(context, "park", agent, by.replace("|", "/"), why))

    async def unpark(self, context: Context, *, agent: AgentId) -> tuple[str, int]:
        """Lets a parked agent go on. `unparked` or `not_parked`, and when to look at the tenant, 0 for never."""
        status, next_look = await self._run(context, "unpark", agent)
        return text(status), int(next_look)

    async def abandon(self, context: Context, *, owner: str, cursor: int, seed: str) -> Abandoned:
        """Takes back some of what a process held that is surely dead. `owner`: its process id."""
        following, leases, stream, next_look, *rung = await self._run(context, "abandon", owner, cursor, seed)
        return Abandoned(int(following), int(leases), bool(stream), int(next_look), pools(rung))

    async def note_away(self, context: Context, *, for_ms: int) -> bool:
        """Tells those who ask why nothing goes that the Letta server is away; False where the tenant is not there."""
        return bool(await self._run(context, "note_away", for_ms))

    async def recount(self, context: Context, *, counter: str, drift: int) -> int:
        """Mends one counter by what was found missing (or, below zero, too much); what it is now."""
        return int(await self._run(context, "recount", counter, drift))

    async def repair_agent(self, context: Context, *, agent: AgentId) -> int:
        """Puts one agent where its mailbox says; when to look at the tenant again, 0 for never."""
        return int(await self._run(context, "repair_agent", agent))

    async def repair_delivery(self, context: Context, *, delivery_id: DeliveryId, agent: str) -> int:
        """Puts one delivery where its ledger entry says; when to look at the tenant again, 0 for never."""
        return int(await self._run(context, "repair_delivery", delivery_id, agent))

    async def repair_message(self, context: Context, *, message_id: MessageId) -> int:
        """Puts one message's record and lists right; when to look at the tenant again, 0 for never."""
        return int(await self._run(context, "repair_message", message_id))
