"""Which agents a tenant has. Read from the source page by page, kept in Redis and in the process.

An agent belongs to a tenant by its `tenant:` tag alone; one without it is, for that tenant, unknown.
"""

import asyncio
import math
from dataclasses import dataclass

from pydantic import ValidationError

from schemas.agent import Agent
from schemas.context import Context
from schemas.ids import AgentId, TenantId
from workers.broker import keys
from workers.broker.client import Client
from workers.clock import Clock
from workers.directory.source import AgentSource
from workers.errors import LettaUnavailableError

FRESH_SECONDS = 300.0
"""A list older than this is read again."""
RELOAD_SECONDS = 1.0
"""A tenant's list is read again at most this often: unknown names must not become a load on Letta."""
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
        by_name: dict[str, tuple[AgentId, ...]] = {}
        for agent in agents:
            by_name[agent.name] = (*by_name.get(agent.name, ()), agent.id)
        return cls({agent.id: agent for agent in agents}, by_name, read_at)

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

    async def roster(self, context: Context) -> Roster:
        """The list as it is remembered: read anew where it is old or doubtful, and the source can be asked.

        Raises:
            LettaUnavailableError: nothing is remembered, and the source cannot be asked now.
        """
        roster = self._rosters.get(context.tenant)
        if roster is None:
            roster = await self._stored(context)
            if roster is None:
                return await self._reload(context, than=None)
            self._rosters[context.tenant] = roster
        if self._age(roster) > FRESH_SECONDS or roster.read_at < self._doubted_at.get(context.tenant, -math.inf):
            try:
                return await self._reload(context, than=roster)
            except LettaUnavailableError:
                return roster
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
        return dict((await self._stored(context) or Roster.of([], 0)).by_id)

    def forget(self, context: Context) -> None:
        """Asks the source again next time: an agent turned out to be gone."""
        self._doubted_at[context.tenant] = self._clock.monotonic()

    def _age(self, roster: Roster) -> float:
        return self._clock.monotonic() - roster.read_at

    async def _reload(self, context: Context, *, than: Roster | None) -> Roster:
        """Reads the list from the source; of several that want it at once, one does."""
        lock = self._locks.setdefault(context.tenant, asyncio.Lock())
        async with lock:
            newer = self._rosters.get(context.tenant)
            if newer is not None and newer is not than:
                return newer
            if newer is not None and self._age(newer) < RELOAD_SECONDS:
                await self._clock.sleep(RELOAD_SECONDS - self._age(newer))
            began_at = self._clock.monotonic()
            agents = [agent async for agent in self._source.agents(context) if agent.belongs_to(context.tenant)]
            roster = Roster.of(agents, began_at)
            self._rosters[context.tenant] = roster
            await self._store(context, agents)
            return roster

    async def _store(self, context: Context, agents: list[Agent]) -> None:
        names = keys.of(context)
        records = {agent.id: agent.model_dump_json() for agent in agents}
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.delete(names.agents)
            pipe.hset(names.agents, mapping={_READ_AT: self._clock.now_ms(), **records})
            await pipe.execute()

    async def _stored(self, context: Context) -> Roster | None:
        found: dict[bytes, bytes] = await self._client.hgetall(keys.of(context).agents)
        read_at_ms = found.pop(_READ_AT.encode(), b"")
        if not read_at_ms.isdigit():
            return None
        agents = []
        for record in found.values():
            try:
                agents.append(Agent.model_validate_json(record))
            except ValidationError:
                return None
        age = max(0.0, (self._clock.now_ms() - int(read_at_ms)) / 1000)
        return Roster.of(agents, self._clock.monotonic() - age)
