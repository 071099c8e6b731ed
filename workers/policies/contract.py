"""What a policy sees and answers. Time comes in as a fact, so that every policy is a pure function."""

from collections.abc import Callable
from dataclasses import dataclass

from schemas.agent import Agent
from schemas.context import Context
from schemas.delivery import Taken
from schemas.envelope import Envelope
from schemas.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Facts:
    """One delivery, right before its call."""

    context: Context
    taken: Taken
    envelope: Envelope
    agent: Agent | None
    """The agent with this tenant's tag; None where there is none."""
    now_ms: int
    """By Redis' clock: the time of the take and what has passed since."""
    since_taken_ms: int
    """Since before the take was asked for: the rate windows were charged within this time."""
    lease_left_ms: int


Policy = Callable[[Facts], Verdict]
