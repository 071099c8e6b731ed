"""Whether a Letta server as a whole is to be left alone for now. Arithmetic alone, on the clock it is given.

It opens when calls fail in a row with no success between them, in ways that are the server's own and not an agent's
or its model's: three that never reached it, whoever they were for; or five that it broke off or answered with an
error of its own, for two agents at least, because one agent may have a trouble of its own. While it is open no turn
begins. Every five seconds one cheap question may be asked; where it is answered, one turn is let through. That turn
closes the breaker as soon as the server takes it, and otherwise the five seconds begin anew.
"""

import math
from collections.abc import Callable
from enum import StrEnum

from schemas.ids import AgentId
from schemas.outcome import Trouble
from workers.clock import Clock

AWAY_IN_A_ROW = 3
ILL_IN_A_ROW = 5
ILL_AGENTS = 2
FORGOTTEN_SECONDS = 60.0
"""A failure so long after the one before begins a new row."""
PROBE_SECONDS = 5.0


class Circuit(StrEnum):
    """Where the breaker stands."""

    CLOSED = "closed"
    """The server is used."""
    OPEN = "open"
    """It is left alone."""
    TRYING = "trying"
    """It answers questions again; the next turn will tell."""


class Breaker:
    """The breaker of one server in this process. `told` hears of every opening and closing, with seconds open."""

    def __init__(self, clock: Clock, told: Callable[[Circuit, float], None] = lambda _circuit, _seconds: None) -> None:
        self._clock = clock
        self._told = told
        self._circuit = Circuit.CLOSED
        self._row: list[Trouble] = []
        self._agents: set[AgentId] = set()
        self._failed_at = -math.inf
        self._opened_at = -math.inf
        self._probed_at = -math.inf
        self._has_trial = False
        """Whether the one turn is there to be begun."""

    @property
    def circuit(self) -> Circuit:
        """Where it stands."""
        return self._circuit

    @property
    def is_open(self) -> bool:
        """Whether turns may not begin as they come."""
        return self._circuit is not Circuit.CLOSED

    @property
    def may_ask(self) -> bool:
        """Whether the server may be asked now how it is."""
        waits_for_a_turn = self._circuit is Circuit.TRYING and self._has_trial
        is_due = self._clock.monotonic() - self._probed_at >= PROBE_SECONDS
        return self.is_open and is_due and not waits_for_a_turn

    @property
    def admits(self) -> bool:
        """Whether a turn may begin now."""
        return not self.is_open or self._has_trial

    def asked(self, *, answered: bool) -> None:
        """The server was asked how it is."""
        if not self.is_open:
            return
        self._probed_at = self._clock.monotonic()
        self._circuit = Circuit.TRYING if answered else Circuit.OPEN
        self._has_trial = answered

    def granted(self) -> None:
        """Room was given for a turn: while it is open, for the one that is let through."""
        if self.is_open:
            self._has_trial = False
            self._probed_at = self._clock.monotonic()

    def unused(self) -> None:
        """There was no turn to begin in that room: the next one may."""
        if self._circuit is Circuit.TRYING:
            self._has_trial = True

    def taken(self, began_at: float) -> None:
        """The server works on a call that was begun at `began_at` (monotonic)."""
        if self.is_open and began_at >= self._opened_at:
            self._close()

    def worked(self, began_at: float) -> None:
        """The server ended a call that was begun at `began_at` as servers do, well or not."""
        if not self.is_open:
            self._row.clear()
            self._agents.clear()
        self.taken(began_at)

    def failed(self, trouble: Trouble, agent: AgentId, began_at: float) -> None:
        """A call came to nothing because of the server."""
        now = self._clock.monotonic()
        if self.is_open:
            if began_at >= self._opened_at and not self._has_trial:
                self._circuit = Circuit.OPEN
            return
        if now - self._failed_at > FORGOTTEN_SECONDS:
            self._row.clear()
            self._agents.clear()
        self._failed_at = now
        self._row.append(trouble)
        self._agents.add(agent)
        if self._is_certain():
            self._open(now)

    def _is_certain(self) -> bool:
        last = self._row[-AWAY_IN_A_ROW:]
        if len(last) == AWAY_IN_A_ROW and set(last) == {Trouble.AWAY}:
            return True
        return len(self._row) >= ILL_IN_A_ROW and len(self._agents) >= ILL_AGENTS

    def _open(self, now: float) -> None:
        self._circuit, self._opened_at, self._probed_at = Circuit.OPEN, now, now
        self._has_trial = False
        self._told(Circuit.OPEN, 0.0)

    def _close(self) -> None:
        self._circuit = Circuit.CLOSED
        self._row.clear()
        self._agents.clear()
        self._told(Circuit.CLOSED, self._clock.monotonic() - self._opened_at)
