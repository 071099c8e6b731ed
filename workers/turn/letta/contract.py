"""What Postroom asks of a Letta back end, whichever it is. One contract, one adapter a back end.

The suite in tests/contract/ runs over every adapter and server at hand. Meanings come from LETTA.md, which
was measured against a real server; where an adapter cannot tell, it says so instead of guessing.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from schemas.agent import Agent
from schemas.context import Context
from schemas.ids import AgentId
from schemas.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a server can do, asked of the server instead of assumed."""

    joins: bool
    """A call can be joined again under its otid (a 0.16 server with Redis, Letta Cloud)."""
    lists_runs: bool
    """Runs can be looked up after the call was cut."""
    locks: bool
    """The server refuses a second turn of a busy agent."""
    version: str
    simulated: bool
    """True for the sandbox: nothing it says may be shown as a real server's word."""


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt at one turn."""

    agent: AgentId
    content: str
    otid: str
    """Unique to delivery, recipient and epoch: the same while the call's fate is open, a new one after."""
    conversation: str | None
    deadline_seconds: float
    """For the whole call, not for each byte of it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The call is over and this is how."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class StillRunning:
    """The server still works on it."""

    run_id: str


@dataclass(frozen=True, slots=True)
class NotDelivered:
    """The server never began this turn, or nothing of it landed: sending cannot double it."""


@dataclass(frozen=True, slots=True)
class CannotTell:
    """Nobody can say: the sender's `on_unknown` decides."""

    detail: str


Fate = Ended | StillRunning | NotDelivered | CannotTell

RunNamed = Callable[[str], Awaitable[None]]
"""Called with the run id as soon as the server names it, before the turn's answer is awaited."""


class LettaPort(Protocol):
    """A Letta back end. Never raises for what a server or a network can do: it answers with an Outcome."""

    async def abilities(self) -> Abilities:
        """What this server can do; cached for a while, asked again after the server was away.

        Raises:
            LettaUnavailableError: the server cannot be reached.
        """

    async def awake(self) -> None:
        """Asks the server anew how it is, by questions that cannot begin a turn; waits a few seconds at most.

        Raises:
            LettaUnavailableError: it cannot be reached, does not answer, or serves nobody.
        """

    async def turn(self, context: Context, call: Call, run_named: RunNamed) -> Outcome:
        """Runs one turn and waits for its end, at most `call.deadline_seconds`.

        On a server that joins, calling again with the same otid joins the running turn or replays it.
        Cancelling this coroutine does not stop the turn on the server.
        """

    async def look(self, context: Context, call: Call, run_id: str | None, opened_at_ms: int) -> Fate:
        """Finds out what became of a call that was cut. Never begins a turn.

        `opened_at_ms` is when the call may have begun, in epoch milliseconds. Waits for a turn that still
        runs, at most `call.deadline_seconds`.

        Raises:
            LettaUnavailableError: the server could not be asked. It may know: look again later. Not
                `CannotTell`, which is for what no further look would tell.

        Raises:
            LettaUnavailableError: the server could not be asked; the fate stays open.
        """

    def agents(self, context: Context) -> AsyncIterator[Agent]:
        """Every agent that carries the context's `tenant:` tag, page by page to the end.

        Raises:
            LettaUnavailableError: the list could not be read to its end.
        """

    async def agent(self, context: Context, agent_id: AgentId) -> Agent | None:
        """One agent with its tags, or None where there is none of that id.

        Raises:
            LettaUnavailableError: the server could not answer.
        """

    async def close(self) -> None:
        """Closes the connections."""
