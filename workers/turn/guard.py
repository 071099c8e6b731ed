"""A Letta back end behind its breaker: the same contract, and what its calls show is told to the breaker.

While the breaker is open no turn begins (workers/turn/slots.py gives no room), and what ends badly then costs no
attempt: the server is the reason, not the message.
"""

import math
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from schemas.agent import Agent
from schemas.context import Context, service_context
from schemas.ids import AgentId
from schemas.outcome import Failed, FateUnknown, Outcome, Trouble
from workers.broker import keys
from workers.clock import Clock
from workers.errors import LettaUnavailableError
from workers.ids import tenant_ids
from workers.resources import Resources
from workers.service import Service
from workers.turn.breaker import Breaker, Circuit
from workers.turn.letta.contract import Abilities, Call, Fate, LettaPort, RunNamed

STEP_SECONDS = 0.5
NOTE_SECONDS = 5.0
NOTED_MS = 7_000
"""Until after the next note; where none comes, the server is back."""
AT_ONCE = 500
"""Tenants looked at in one round trip."""
NOBODY: AgentId = ""
"""For what is asked for no agent in particular."""


class GuardedLetta:
    """A `LettaPort` over another one."""

    def __init__(self, letta: LettaPort, breaker: Breaker, clock: Clock) -> None:
        self._letta = letta
        self._breaker = breaker
        self._clock = clock

    async def abilities(self) -> Abilities:
        return await self._letta.abilities()

    async def awake(self) -> None:
        await self._letta.awake()

    async def turn(self, context: Context, call: Call, run_named: RunNamed) -> Outcome:
        began_at = self._clock.monotonic()

        async def taken(run_id: str) -> None:
            # The server works on it: whoever waits for the breaker need not wait for the agent as well.
            self._breaker.taken(began_at)
            await run_named(run_id)

        outcome = await self._letta.turn(context, call, taken)
        trouble = trouble_of(outcome)
        if trouble is None:
            self._breaker.worked(began_at)
            return outcome
        self._breaker.failed(trouble, call.agent, began_at)
        return _at_no_cost(outcome) if self._breaker.is_open else outcome

    async def look(self, context: Context, call: Call, run_id: str | None, opened_at_ms: int) -> Fate:
        began_at = self._clock.monotonic()
        try:
            fate = await self._letta.look(context, call, run_id, opened_at_ms)
        except LettaUnavailableError as error:
            self._tell(error, call.agent, began_at)
            raise
        self._breaker.worked(began_at)
        return fate

    async def agents(self, context: Context) -> AsyncIterator[Agent]:
        began_at = self._clock.monotonic()
        try:
            async for agent in self._letta.agents(context):
                yield agent
        except LettaUnavailableError as error:
            self._tell(error, NOBODY, began_at)
            raise

    async def agent(self, context: Context, agent_id: AgentId) -> Agent | None:
        began_at = self._clock.monotonic()
        try:
            return await self._letta.agent(context, agent_id)
        except LettaUnavailableError as error:
            self._tell(error, agent_id, began_at)
            raise

    async def close(self) -> None:
        await self._letta.close()

    def _tell(self, error: LettaUnavailableError, agent: AgentId, began_at: float) -> None:
        self._breaker.failed(Trouble.ILL if error.answered else Trouble.AWAY, agent, began_at)


def trouble_of(outcome: Outcome) -> Trouble | None:
    """What an outcome shows of the server; None: nothing bad, whatever became of the turn."""
    match outcome:
        case Failed(trouble=trouble):
            return trouble
        case FateUnknown():
            return Trouble.ILL
        case _:
            return None


def _at_no_cost(outcome: Outcome) -> Outcome:
    return replace(outcome, counts=False) if isinstance(outcome, Failed | FateUnknown) else outcome


class Prober(Service):
    """Asks a server that is left alone how it is, as often as the breaker allows, and tells the tenants of it."""

    name = "breaker"
    every_seconds = STEP_SECONDS

    def __init__(self, resources: Resources, letta: LettaPort, breaker: Breaker) -> None:
        super().__init__(resources)
        self._letta = letta
        self._breaker = breaker
        self._noted_at = -math.inf

    async def step(self) -> None:
        await self._ask()
        now = self.resources.clock.monotonic()
        if self._breaker.is_open and now - self._noted_at >= NOTE_SECONDS:
            self._noted_at = now
            await self._note()

    async def _ask(self) -> None:
        if not self._breaker.may_ask:
            return
        try:
            await self._letta.awake()
        except LettaUnavailableError as error:
            self.resources.log.process.debug("letta is away", error_type=type(error).__name__)
            self._breaker.asked(answered=False)
        else:
            self._breaker.asked(answered=True)

    async def _note(self) -> None:
        """Tells every tenant that has something to do. Whoever looks at a receipt then learns why nothing goes."""
        client = self.resources.client
        tenants = tenant_ids(await client.smembers(keys.tenants()))
        contexts = [service_context(tenant, self.name) for tenant in tenants]
        for first in range(0, len(contexts), AT_ONCE):
            some = contexts[first : first + AT_ONCE]
            async with client.pipeline(transaction=False) as pipe:
                for context in some:
                    pipe.exists(keys.of(context).rung, keys.of(context).holds)
                waiting = await pipe.execute()
            for context, waits in zip(some, waiting, strict=True):
                if waits:
                    await self.resources.scripts.note_away(context, for_ms=NOTED_MS)


def telling(resources: Resources) -> Callable[[Circuit, float], None]:
    """What a breaker tells, as lines of the log."""

    def tell(circuit: Circuit, seconds: float) -> None:
        log = resources.log.process
        if circuit is Circuit.CLOSED:
            log.warning("letta is back", status=circuit, seconds=round(seconds, 1))
        else:
            log.warning("letta is left alone", status=circuit)

    return tell
