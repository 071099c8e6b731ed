"""A tenant's ledger under test: the scripts on one Redis, with short ways to publish, take and settle."""

from dataclasses import dataclass, field

from schemas.context import Context, service_context
from schemas.delivery import Cause, State, Taken
from schemas.envelope import Priority
from tests.support.time import CLOCK_LUA, ScriptTime
from workers.broker import keys
from workers.broker.client import Client
from workers.broker.results import Dispatched, Move, Settlement, TakenBatch
from workers.broker.rules import Pool, Rules
from workers.broker.scripts import Scripts

OWNER = "dispatcher-1"


def agent_id(number: int) -> str:
    return f"agent-00000000-0000-4000-8000-{number:012d}"


@dataclass
class Ledger:
    """One tenant, `acme` unless named otherwise."""

    client: Client
    time: ScriptTime
    context: Context = field(default_factory=lambda: service_context("acme", "test"))
    rules: Rules = field(default_factory=Rules)
    scripts: Scripts = field(init=False)

    def __post_init__(self) -> None:
        self.scripts = Scripts(self.client, self.rules, clock_lua=CLOCK_LUA)

    @property
    def keys(self) -> keys.TenantKeys:
        return keys.of(self.context)

    async def register(self, **limits: int) -> None:
        numbers = {
            "per_minute": 1000,
            "team_per_minute": 1000,
            "agent_per_minute": 1000,
            "in_flight": 64,
            "max_bytes": 10**9,
        }
        await self.client.hset(self.keys.tenant, mapping={**numbers, **limits, "suspended": 0})
        await self.client.sadd(keys.tenants(), self.context.tenant)
        assert await self.scripts.hold_stream(self.context, owner=OWNER, lease_ms=600_000)

    async def publish(self, message_id: str, content: str = "hello", *, answers: str = "") -> str:
        envelope = f'{{"id":"{message_id}","content":"{content}"}}'
        answer = await self.scripts.publish(
            self.context,
            message_id=message_id,
            digest=content,
            envelope=envelope,
            size=len(content),
            answers=answers,
        )
        return answer.status

    async def entry_of(self, message_id: str) -> str:
        entry: bytes = await self.client.hget(self.keys.message(message_id), "entry")
        return entry.decode()

    async def dispatch(
        self,
        message_id: str,
        *agents: str,
        priority: Priority = Priority.NORMAL,
        expires_in_ms: int | None = None,
        not_before_in_ms: int | None = None,
        teams: tuple[str, ...] = (),
        seed: str = "seed",
        content: str = "hello",
        answers: str = "",
    ) -> Dispatched:
        move = Move(
            entry_id=await self.entry_of(message_id),
            message_id=message_id,
            digest=content,
            envelope=f'{{"id":"{message_id}","content":"{content}"}}',
            size=len(content),
            rank=priority.rank,
            not_before_ms=None if not_before_in_ms is None else self.time.now_ms + not_before_in_ms,
            expires_at_ms=None if expires_in_ms is None else self.time.now_ms + expires_in_ms,
            recipients=tuple((agent, teams) for agent in agents or (agent_id(1),)),
            answers=answers,
        )
        return await self.scripts.dispatch(self.context, owner=OWNER, move=move, seed=seed)

    async def send(
        self,
        message_id: str,
        *agents: str,
        priority: Priority = Priority.NORMAL,
        answers: str = "",
        **options: int,
    ) -> Dispatched:
        """Publish and dispatch."""
        assert await self.publish(message_id) == "accepted"
        # One microsecond later than the last one, as on a clock that moves.
        await self.time.advance(ms=0.001)
        return await self.dispatch(message_id, *agents, priority=priority, answers=answers, **options)  # type: ignore[arg-type]

    async def take(self, limit: int = 10, *, pool: Pool = Pool.STANDARD, owner: str = "worker-1") -> TakenBatch:
        return await self.scripts.take(self.context, owner=owner, pool=pool, limit=limit, lease_ms=15_000)

    async def take_ids(self, limit: int = 10, *, pool: Pool = Pool.STANDARD) -> list[str]:
        return [one.id for one in (await self.take(limit, pool=pool)).taken]

    async def settle(
        self, taken: Taken, state: State = State.DELIVERED, cause: Cause = Cause.REPLIED, **more: object
    ) -> str:
        settlement = Settlement(taken.id, taken.agent, taken.token, state, cause, **more)  # type: ignore[arg-type]
        answer = await self.scripts.settle(self.context, seed="settled", settlements=[settlement])
        return answer.results[0]

    async def state(self, delivery_id: str) -> str:
        return (await self.field(delivery_id, "state")) or ""

    async def field(self, delivery_id: str, name: str) -> str | None:
        value: bytes | None = await self.client.hget(self.keys.delivery(delivery_id), name)
        return None if value is None else value.decode()

    async def counters(self) -> dict[str, int]:
        found: dict[bytes, bytes] = await self.client.hgetall(self.keys.counters)
        return {name.decode(): int(value) for name, value in found.items()}
