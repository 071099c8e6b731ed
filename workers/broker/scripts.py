"""Every Lua script and its one typed coroutine of the same name. Nothing else changes the ledger.

A script is lua/<name>.lua behind a common head: the table of names, the rules, the clock, lua/ledger.lua.
Its header names KEYS, ARGV and RETURNS; a test holds header and signature together.
"""

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError, OutOfMemoryError, ResponseError

from schemas.context import Context
from schemas.delivery import Cause
from schemas.ids import AgentId, DeliveryId, MessageId
from workers.broker import keys
from workers.broker.client import Client
from workers.broker.results import (
    Cancelled,
    Dispatched,
    Move,
    Published,
    Redriven,
    Settled,
    Settlement,
    Swept,
    TakenBatch,
    parse_taken,
)
from workers.broker.rules import Pool, Rules

LUA = files("workers.broker") / "lua"
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
    "redrive",
    "discard",
    "recount",
    "repair_agent",
    "repair_delivery",
    "repair_message",
)


class Scripts:
    """The scripts on one connection. `clock_lua` is replaced by tests only: it defines `now_us()`."""

    def __init__(self, client: Client, rules: Rules | None = None, *, clock_lua: str | None = None) -> None:
        self.client = client
        head = [*keys.lua_names(), *(rules or Rules()).as_lua(), clock_lua or _read("clock"), _read("ledger")]
        self._sources = {name: "\n".join((*head, _read(name))) for name in NAMES}
        self._shas = {
            name: hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
            for name, source in self._sources.items()
        }

    async def publish(
        self,
        context: Context,
        *,
        message_id: MessageId,
        digest: str,
        envelope: str,
        size: int,
        expires_at_ms: int | None = None,
    ) -> Published:
        """Puts a message on the stream, once for each id."""
        arguments = (message_id, digest, envelope, size, _optional(expires_at_ms))
        try:
            status, accepted_at = await self._run(context, "publish", *arguments)
        except ResponseError as error:
            # Redis 6.2 tells of it as of any error in a script.
            if not isinstance(error, OutOfMemoryError) and "-OOM " not in str(error):
                raise
            return Published("overloaded", 0)
        return Published(_text(status), int(accepted_at or 0))

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
        calls = [_dispatch_arguments(owner, move, seed) for move in moves]
        answers = await self._run_all(context, "dispatch", calls)
        return [Dispatched(_text(status), int(look), _pools(pools)) for status, look, *pools in answers]

    async def refuse(
        self, context: Context, *, owner: str, entry_id: str, message_id: MessageId, cause: Cause, detail: str
    ) -> str:
        """Moves an entry that cannot be a delivery to the dead letters. `refused`, `gone` or `lost`."""
        return _text(await self._run(context, "refuse", owner, entry_id, message_id, cause, detail))

    async def take(self, context: Context, *, owner: str, pool: Pool, limit: int, lease_ms: int) -> TakenBatch:
        """Takes up to `limit` deliveries under leases of `lease_ms`."""
        now, more, next_look, *rows = await self._run(context, "take", owner, pool, limit, lease_ms)
        return TakenBatch(int(now), bool(more), int(next_look), tuple(parse_taken(row) for row in rows))

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
        return frozenset(_text(agent) for agent in await self._run(context, "renew", lease_ms, *flat))

    async def settle(self, context: Context, *, seed: str, settlements: Sequence[Settlement]) -> Settled:
        """Ends or returns a batch. An empty `seed` rings nobody: the caller takes again by itself."""
        flat = [part for settlement in settlements for part in settlement.as_arguments()]
        next_look, results, *pools = await self._run(context, "settle", seed, *flat)
        return Settled(int(next_look), tuple(_text(result) for result in results), _pools(pools))

    async def ring(self, context: Context, *, pool: Pool, seed: str) -> None:
        """Claims a drain for one pool, whatever claim there was."""
        await self._run(context, "ring", pool, seed)

    async def cancel(self, context: Context, *, message_id: MessageId) -> Cancelled:
        """Takes a message back where no turn of it has begun."""
        status, next_look, *rows = await self._run(context, "cancel", message_id)
        results = tuple((_text(id_), _text(result)) for id_, result in rows)
        return Cancelled(_text(status) == "found", results, int(next_look))

    async def lift(self, context: Context, *, cursor: int = 0) -> tuple[int, int]:
        """Lifts some of what rate windows hold; the next cursor, 0 at the end, and how many holds that were."""
        following, lifted = await self._run(context, "lift", cursor)
        return int(following), int(lifted)

    async def sweep(self, context: Context, *, seed: str, overflow_ms: int) -> Swept:
        """Looks after one tenant; bounded."""
        next_look, claims, *pools = await self._run(context, "sweep", seed, overflow_ms)
        claimed = tuple((Pool(_text(pool)), _text(job)) for pool, job, _ in claims)
        return Swept(int(next_look), claimed, _pools(pools))

    async def redrive(self, context: Context, *, entry_id: str, ttl_ms: int | None) -> Redriven:
        """Puts one dead letter back where it can be delivered; a second time finds none."""
        status, next_look = await self._run(context, "redrive", entry_id, _optional(ttl_ms))
        return Redriven(_text(status), int(next_look))

    async def discard(self, context: Context, *, entry_id: str) -> str:
        """Gives one dead letter up. `discarded` or `gone`."""
        return _text(await self._run(context, "discard", entry_id))

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

    async def _run_all(self, context: Context, name: str, calls: Sequence[Sequence[str | bytes | int]]) -> list[Any]:
        answers = await self._run_together(context, name, calls)
        if any(isinstance(answer, NoScriptError) for answer in answers):
            # One was not there, so none was, and nothing was done.
            await self.client.script_load(self._sources[name])
            answers = await self._run_together(context, name, calls)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    async def _run_together(
        self, context: Context, name: str, calls: Sequence[Sequence[str | bytes | int]]
    ) -> list[Any]:
        root = keys.of(context).root
        async with self.client.pipeline(transaction=True) as pipe:
            for arguments in calls:
                pipe.execute_command("EVALSHA", self._shas[name], 1, root, *arguments)
            answers: list[Any] = await pipe.execute(raise_on_error=False)
        return answers

    async def _run(self, context: Context, name: str, *arguments: str | bytes | int) -> Any:
        root = keys.of(context).root
        try:
            return await self.client.execute_command("EVALSHA", self._shas[name], 1, root, *arguments)
        except NoScriptError:
            # Redis restarted or its scripts were flushed (HAZARDS.md S16). EVAL stores it again.
            return await self.client.execute_command("EVAL", self._sources[name], 1, root, *arguments)


def _dispatch_arguments(owner: str, move: Move, seed: str) -> tuple[str | int, ...]:
    return (
        owner,
        move.entry_id,
        move.message_id,
        move.digest,
        move.envelope,
        move.size,
        move.rank,
        _optional(move.not_before_ms),
        _optional(move.expires_at_ms),
        seed,
        *(part for agent, teams in move.recipients for part in (agent, ",".join(teams))),
    )


def _read(name: str) -> str:
    return (LUA / f"{name}.lua").read_text()


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _optional(value: int | None) -> str:
    return "" if value is None else str(value)


def _pools(names: Sequence[bytes | str]) -> tuple[Pool, ...]:
    return tuple(Pool(_text(name)) for name in names)
