"""A Letta back end that says what it is told to: behind the contract, without a server, for the tests of a turn.

What a real server does is the contract suite's business (tests/contract); this one only plays a part.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from schemas.agent import Agent
from schemas.context import Context
from schemas.ids import AgentId
from schemas.outcome import Outcome, Replied
from workers.errors import LettaUnavailableError
from workers.turn.letta.contract import Abilities, Call, Fate, NotDelivered, RunNamed

OK = Replied("ok", "end_turn", "run-1")


@dataclass
class FakeLetta:
    """Answers from `outcomes` and `fates` in their order, then the same again and again."""

    outcomes: deque[Outcome | Exception] = field(default_factory=deque)
    fates: deque[Fate | Exception] = field(default_factory=deque)
    roster: list[Agent] = field(default_factory=list)
    away: bool = False
    names_run: str | None = None
    gate: asyncio.Event | None = None
    """Where set, a turn waits for it."""
    calls: list[Call] = field(default_factory=list)
    contexts: list[Context] = field(default_factory=list)
    looks: list[tuple[Call, str | None, int]] = field(default_factory=list)
    listings: int = 0
    running: int = 0
    most_running: dict[AgentId, int] = field(default_factory=dict)
    on_turn: Callable[[Call], None] | None = None
    per_agent: dict[AgentId, int] = field(default_factory=dict)

    async def abilities(self) -> Abilities:
        return Abilities(joins=True, lists_runs=True, locks=True, version="fake", simulated=True)

    async def awake(self) -> None:
        if self.away:
            raise LettaUnavailableError("the fake is away")

    async def turn(self, context: Context, call: Call, run_named: RunNamed) -> Outcome:
        self.calls.append(call)
        self.contexts.append(context)
        now = self.per_agent[call.agent] = self.per_agent.get(call.agent, 0) + 1
        self.most_running[call.agent] = max(self.most_running.get(call.agent, 0), now)
        self.running += 1
        try:
            if self.names_run is not None:
                await run_named(self.names_run)
            if self.on_turn is not None:
                self.on_turn(call)
            if self.gate is not None:
                await self.gate.wait()
            await asyncio.sleep(0)
            outcome = self.outcomes.popleft() if self.outcomes else OK
            if isinstance(outcome, Exception):
                raise outcome
            return outcome
        finally:
            self.running -= 1
            self.per_agent[call.agent] -= 1

    async def look(self, context: Context, call: Call, run_id: str | None, opened_at_ms: int) -> Fate:  # noqa: ARG002
        self.looks.append((call, run_id, opened_at_ms))
        fate = self.fates.popleft() if self.fates else NotDelivered()
        if isinstance(fate, Exception):
            raise fate
        return fate

    async def agents(self, context: Context) -> AsyncIterator[Agent]:  # noqa: ARG002
        self.listings += 1
        if self.away:
            raise LettaUnavailableError("the fake is away")
        for agent in list(self.roster):
            yield agent

    async def agent(self, context: Context, agent_id: AgentId) -> Agent | None:  # noqa: ARG002
        if self.away:
            raise LettaUnavailableError("the fake is away")
        return next((one for one in self.roster if one.id == agent_id), None)

    async def close(self) -> None:
        """Nothing to close."""
