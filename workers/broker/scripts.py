"""Every Lua script and its one typed coroutine of the same name. Nothing else changes the ledger.

The message's path stands here, what goes to many in bulk.py, what the directory keeps in known.py,
what operators do in upkeep.py, how a tenant comes and goes in leaving.py; runner.py runs them.
The header of lua/<name>.lua names KEYS, ARGV and RETURNS; a test holds header and signature together.
"""

from collections.abc import Sequence
from dataclasses import replace

from redis.exceptions import OutOfMemoryError, ResponseError

from schemas.context import Context
from schemas.delivery import Cause
from schemas.ids import AgentId, DeliveryId, MessageId
from workers.broker.bulk import NAMES as BULK
from workers.broker.bulk import BulkScripts
from workers.broker.known import NAMES as KNOWN
from workers.broker.known import KnownScripts
from workers.broker.leaving import NAMES as LEAVING
from workers.broker.leaving import LeavingScripts
from workers.broker.results import (
    Cancelled,
    Dispatched,
    Move,
    Published,
    Settled,
    Settlement,
    Swept,
    TakenBatch,
    parse_taken,
)
from workers.broker.rules import Pool
from workers.broker.runner import optional, pools, text
from workers.broker.upkeep import NAMES as UPKEEP
from workers.broker.upkeep import UpkeepScripts

NAMES = (
    "publish",
    "hold_stream",
    "release_stream",
    "dispatch",
    "refuse",
    "take",
    "record_run",
    "renew",
    "settle",
    "ring",
    "cancel",
    "lift",
    "sweep",
    *BULK,
    *KNOWN,
    *LEAVING,
    *UPKEEP,
)


class Scripts(BulkScripts, KnownScripts, LeavingScripts, UpkeepScripts):
    """Every script, on one connection."""

    names = NAMES

    async def publish(
        self,
        context: Context,
        *,
        message_id: MessageId,
        digest: str,
        envelope: str,
        size: int,
        expires_at_ms: int | None = None,
        answers: str = "",
        by_operator: bool = False,
    ) -> Published:
        """Puts a message on the stream, once for each id. `answers`: as of a move."""
        operator = "1" if by_operator else ""
        arguments = (message_id, digest, envelope, size, optional(expires_at_ms), answers, operator)
        try:
            (status, accepted_at), confirmed = await self._run_kept(context, "publish", *arguments)
        except ResponseError as error:
            # Redis 6.2 tells of it as of any error in a script.
            if not isinstance(error, OutOfMemoryError) and "-OOM " not in str(error):
                raise
            return Published("overloaded", 0)
        return Published(text(status), int(accepted_at or 0), confirmed)

    async def hold_stream(self, context: Context, *, owner: str, lease_ms: int) -> bool:
        """Makes the caller the owner of the tenant's stream, or renews it; False where another is."""
        return bool(await self._run(context, "hold_stream", owner, lease_ms))

    async def release_stream(self, context: Context, *, owner: str) -> bool:
        """Gives the tenant's stream up."""
        return bool(await self._run(context, "release_stream", owner))

    async def dispatch(self, context: Context, *, owner: str, move: Move, seed: str) -> Dispatched:
        """Moves one entry into the mailboxes of its recipients."""
        return (await self.dispatch_all(context, owner=owner, moves=[move], seed=seed))[0]

    async def dispatch_all(self, context: Context, *, owner: str, moves: Sequence[Move], seed: str) -> list[Dispatched]:
        """The same for several entries, in their order, in one step: nothing that makes one of them wait (a lost
        stream, a lost script, a full tenant) can begin or end between two of them, and let the second overtake.
        """
        last = len(moves) - 1
        calls = [_dispatch_arguments(owner, move, seed if n == last else "") for n, move in enumerate(moves)]
        answers = await self._run_all(context, "dispatch", calls)
        moved = [Dispatched(text(status), int(look), pools(rung)) for status, look, *rung in answers]
        # The last one has looked and rung for all; where it stayed, somebody looks now.
        if moved[-1].status != "moved":
            return moved
        return [*(replace(one, next_look_ms=0) for one in moved[:-1]), moved[-1]]

    async def refuse(
        self,
        context: Context,
        *,
        owner: str,
        entry_id: str,
        message_id: MessageId,
        cause: Cause,
        detail: str,
        answers: str = "",
    ) -> str:
        """Moves an entry that cannot be a delivery to the dead letters. `refused`, `gone` or `lost`."""
        return text(await self._run(context, "refuse", owner, entry_id, message_id, cause, detail, answers))

    async def take(self, context: Context, *, owner: str, pool: Pool, limit: int, lease_ms: int) -> TakenBatch:
        """Takes up to `limit` deliveries under leases of `lease_ms`."""
        answer, confirmed = await self._run_kept(context, "take", owner, pool, limit, lease_ms)
        now, more, next_look, *rows = answer
        return TakenBatch(int(now), bool(more), int(next_look), tuple(parse_taken(row) for row in rows), confirmed)

    async def record_run(
        self, context: Context, *, delivery_id: DeliveryId, agent: AgentId, token: int, run_id: str
    ) -> bool:
        """Stores the run id the server named; False where the lease is lost."""
        return bool(await self._run(context, "record_run", delivery_id, agent, token, run_id))

    async def renew(
        self, context: Context, *, lease_ms: int, pairs: Sequence[tuple[AgentId, int]]
    ) -> frozenset[AgentId]:
        """Renews leases, given as (agent, token); answers with the agents whose lease is lost."""
        flat = [part for pair in pairs for part in pair]
        return frozenset(text(agent) for agent in await self._run(context, "renew", lease_ms, *flat))

    async def settle(self, context: Context, *, seed: str, settlements: Sequence[Settlement]) -> Settled:
        """Ends or returns a batch. An empty `seed` rings nobody: the caller takes again by itself."""
        flat = [part for settlement in settlements for part in settlement.as_arguments()]
        (next_look, results, *rung), _ = await self._run_kept(context, "settle", seed, *flat)
        return Settled(int(next_look), tuple(text(result) for result in results), pools(rung))

    async def ring(self, context: Context, *, pool: Pool, seed: str) -> None:
        """Claims a drain for one pool, whatever claim there was."""
        await self._run(context, "ring", pool, seed)

    async def cancel(self, context: Context, *, message_id: MessageId, first: int = 1) -> Cancelled:
        """Takes a message back where no turn of it has begun: some of its deliveries, from the `first`th on."""
        status, next_look, go_on, *rows = await self._run(context, "cancel", message_id, first)
        results = tuple((text(id_), text(result)) for id_, result in rows)
        return Cancelled(text(status) == "found", results, int(next_look), int(go_on))

    async def lift(self, context: Context, *, cursor: int = 0) -> tuple[int, int]:
        """Lifts some of what rate windows hold; the next cursor, 0 at the end, and how many holds that were."""
        following, lifted = await self._run(context, "lift", cursor)
        return int(following), int(lifted)

    async def sweep(self, context: Context, *, seed: str, overflow_ms: int) -> Swept:
        """Looks after one tenant; bounded."""
        next_look, claims, gathers, *rung = await self._run(context, "sweep", seed, overflow_ms)
        # A pool that only a newer version has is that version's to look after.
        claimed = tuple((Pool(text(pool)), text(job)) for pool, job, _ in claims if text(pool) in set(Pool))
        return Swept(int(next_look), claimed, tuple(text(one) for one in gathers), pools(rung))


def _dispatch_arguments(owner: str, move: Move, seed: str) -> tuple[str | int, ...]:
    recipients = (part for agent, teams in move.recipients for part in (agent, ",".join(teams)))
    return (owner, *move.as_arguments(), seed, *recipients)
