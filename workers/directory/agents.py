"""Which agents a tenant has. Read from the source page by page, kept in Redis and in the process.

An agent belongs to a tenant by its `tenant:` tag alone; one without it is, for that tenant, unknown.
"""

import asyncio
import math
from collections import defaultdict
from dataclasses import dataclass

from pydantic import ValidationError

from schemas.agent import Agent
from schemas.context import Context
from schemas.ids import AgentId, TenantId
from workers.broker import keys
from workers.broker.client import Client
from workers.broker.scripts import Scripts
from workers.clock import Clock
from workers.directory.source import AgentSource
from workers.errors import LettaUnavailableError

FRESH_SECONDS = 300.0
"""A list older than this is read again."""
RELOAD_SECONDS = 1.0
"""A tenant's list is read again at most this often: unknown names must not become a load on Letta."""
AWAY_SECONDS = 5.0
"""A source that could not be asked is asked again after this where a list is remembered: nobody waits for it twice."""
_READ_AT = "*"


@dataclass(frozen=True, slots=True)
class UnknownAgent:
    """The tenant has no such agent."""


@dataclass(frozen=True, slots=True)
class AmbiguousAgent:
    """Letta's names are not unique: several agents of the tenant have this one."""

    ids: tuple[AgentId, ...]


Found = Agent | UnknownAgent | AmbiguousAgent


@dataclass(frozen=True, slots=True)
class Roster:
    """A tenant's agents, as the list stood when it was read."""

    by_id: dict[AgentId, Agent]
    by_name: dict[str, tuple[AgentId, ...]]
    read_at: float
    """When the reading began, monotonic."""

    @classmethod
    def of(cls, agents: list[Agent], read_at: float) -> "Roster":
        by_name: defaultdict[str, list[AgentId]] = defaultdict(list)
        by_id = {agent.id: agent for agent in agents}
        for agent in by_id.values():
            by_name[agent.name].append(agent.id)
        return cls(by_id, {name: tuple(ids) for name, ids in by_name.items()}, read_at)

    def find(self, address: str) -> Found:
        """The agent of that id or exact name."""
        if address in self.by_id:
            return self.by_id[address]
        ids = self.by_name.get(address, ())
        if len(ids) == 1:
            return self.by_id[ids[0]]
        return AmbiguousAgent(ids) if ids else UnknownAgent()


class Directory:
    """The agents of every tenant this process has to do with."""

    def __init__(self, client: Client, source: AgentSource, clock: Clock) -> None:
        self._client = client
        self._source = source
        self._clock = clock
        self._rosters: dict[TenantId, Roster] = {}
        self._locks: dict[TenantId, asyncio.Lock] = {}
        self._doubted_at: dict[TenantId, float] = {}
        """When a list last turned out to be wrong, monotonic."""
        self._away_at: dict[TenantId, float] = {}
        """When the source last could not be asked, monotonic."""
        self._stamps: dict[TenantId, int] = {}
        """Of the stored list that a remembered one was or became."""
        self._scripts = Scripts(client)

    async def roster(self, context: Context) -> Roster:
        """The list as it is remembered: read anew where it is old or doubtful, and the source can be asked.

        Raises:
            LettaUnavailableError: nothing is remembered, and the source cannot be asked now.
        """
        return await self.recent(context, FRESH_SECONDS)

    async def recent(self, context: Context, max_age_seconds: float) -> Roster:
        """The list, read anew where it is older than this or doubtful: by this process, or by another that stored it.

        Where the source cannot be asked, what is remembered, however old.

        Raises:
            LettaUnavailableError: nothing is remembered, and the source cannot be asked now.
        """
        roster = self._rosters.get(context.tenant)
        if roster is None or not self._serves(context, roster, max_age_seconds):
            roster = await self._stored_since(context, roster) or roster
        if roster is None:
            return await self._reload(context, than=None)
        if self._serves(context, roster, max_age_seconds) or self._seconds_since(self._away_at, context) < AWAY_SECONDS:
            return roster
        try:
            return await self._reload(context, than=roster)
        except LettaUnavailableError:
            return roster

    async def newer(self, context: Context, than: Roster) -> Roster:
        """A list that was read after this one. Waits where the last reading is not a second ago.

        Raises:
            LettaUnavailableError: the source cannot be asked now.
        """
        return await self._reload(context, than=than)

    async def find(self, context: Context, address: str, *, seen_at: float) -> Found:
        """The agent of that id or exact name.

        `seen_at` is when the address was seen (monotonic): "unknown" is only believed of a list that was read
        after it, so that an agent made a moment before its first message is found.

        Raises:
            LettaUnavailableError: it is not known, and the source cannot be asked now.
        """
        roster = await self.roster(context)
        found = roster.find(address)
        if isinstance(found, Agent) or roster.read_at >= seen_at:
            return found
        return (await self._reload(context, than=roster)).find(address)

    async def confirm(self, context: Context, agent_id: AgentId, *, seen_at: float) -> Agent | None:
        """The agent, if it carries the tenant's tag; checked once for each cached agent, before a call.

        A source that is away does not matter for an agent known before. `seen_at` as for `find`.

        Raises:
            LettaUnavailableError: the agent is not known, and the source cannot be asked now.
        """
        found = await self.find(context, agent_id, seen_at=seen_at)
        return found if isinstance(found, Agent) and found.belongs_to(context.tenant) else None

    async def all(self, context: Context) -> list[Agent]:
        """Every agent of the tenant, by name, read anew.

        Raises:
            LettaUnavailableError: the source cannot be asked now.
        """
        roster = await self._reload(context, than=self._rosters.get(context.tenant))
        return sorted(roster.by_id.values(), key=lambda agent: (agent.name, agent.id))

    async def known(self, context: Context) -> dict[AgentId, Agent]:
        """What is remembered, without asking the source: for showing names."""
        stored = await self._stored(context)
        return dict(stored[0].by_id) if stored else {}

    def forget(self, context: Context) -> None:
        """Asks the source again next time: an agent turned out to be gone."""
        self._doubted_at[context.tenant] = self._clock.monotonic()

    def _age(self, roster: Roster) -> float:
        return self._clock.monotonic() - roster.read_at

    def _seconds_since(self, times: dict[TenantId, float], context: Context) -> float:
        return self._clock.monotonic() - times.get(context.tenant, -math.inf)

    def _serves(self, context: Context, roster: Roster, max_age_seconds: float) -> bool:
        return self._age(roster) <= max_age_seconds and roster.read_at >= self._doubted_at.get(
            context.tenant, -math.inf
        )

    async def _reload(self, context: Context, *, than: Roster | None) -> Roster:
        """Reads the list from the source; of several that want it at once, one does, and all have its answer."""
        lock = self._locks.setdefault(context.tenant, asyncio.Lock())
        asked_at = self._clock.monotonic()
        async with lock:
            newer = self._rosters.get(context.tenant)
            if newer is not None and newer is not than:
                return newer
            if self._away_at.get(context.tenant, -math.inf) > asked_at:
                raise LettaUnavailableError("the Letta server could not be asked for the agents a moment ago")
            if newer is not None and self._age(newer) < RELOAD_SECONDS:
                await self._clock.sleep(RELOAD_SECONDS - self._age(newer))
            began_at = self._clock.monotonic()
            try:
                agents = [agent async for agent in self._source.agents(context) if agent.belongs_to(context.tenant)]
            except LettaUnavailableError:
                self._away_at[context.tenant] = self._clock.monotonic()
                raise
            roster = Roster.of(agents, began_at)
            self._rosters[context.tenant] = roster
            await self._store(context, roster)
            return roster

    async def _store(self, context: Context, roster: Roster) -> None:
        records = [(agent.id, agent.model_dump_json()) for agent in roster.by_id.values()]
        age_ms = math.ceil(self._age(roster) * 1000)
        self._stamps[context.tenant] = await self._scripts.store_agents(context, age_ms=age_ms, records=records)

    async def _stored_since(self, context: Context, roster: Roster | None) -> Roster | None:
        """What another process stored after this list; None where that is nothing."""
        if roster is not None:
            stamp: bytes | None = await self._client.hget(keys.of(context).agents, _READ_AT)
            if _stamp(stamp) <= self._stamps.get(context.tenant, 0):
                return None
        stored = await self._stored(context)
        if stored is None:
            return None
        # Somebody here may have read the source meanwhile.
        remembered = self._rosters.get(context.tenant)
        if remembered is None or remembered.read_at < stored[0].read_at:
            self._rosters[context.tenant], self._stamps[context.tenant] = stored
        return self._rosters[context.tenant]

    async def _stored(self, context: Context) -> tuple[Roster, int] | None:
        """The list as it is stored, with its stamp."""
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.time()
            pipe.hgetall(keys.of(context).agents)
            (seconds, micros), found = await pipe.execute()
        stamp = _stamp(found.pop(_READ_AT.encode(), None))
        if not stamp:
            return None
        try:
            agents = [Agent.model_validate_json(record) for record in found.values()]
        except ValidationError:
            return None
        age_ms = max(0, int(seconds) * 1000 + int(micros) // 1000 - stamp)
        return Roster.of(agents, self._clock.monotonic() - age_ms / 1000), stamp


def _stamp(raw: bytes | None) -> int:
    """When a stored list was read, by Redis' clock: whose process wrote it does not matter. 0 for none."""
    return int(raw) if raw is not None and raw.isdigit() else 0
