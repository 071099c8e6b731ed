"""How one turn of an agent ended. A closed set, handled in one `match` (workers/turn/settlement.py)."""

from dataclasses import dataclass
from enum import StrEnum

from schemas.delivery import Cause


class Trouble(StrEnum):
    """What is wrong with a server as a whole, as one call shows it."""

    AWAY = "away"
    """It cannot be reached, or serves nobody: certain."""
    ILL = "ill"
    """It broke the call off, or failed by its own word. It may be this agent's alone."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a turn cost, as the server counts it."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Replied:
    """The turn ran to its end. `text` may be empty: `stop_reason` says why."""

    text: str
    stop_reason: str
    run_id: str | None
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Busy:
    """Another turn of this agent runs on the server (409). Waits, costs no attempt."""

    detail: str
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class AwaitsApproval:
    """The agent waits for a person's approval (409, or the end of this very turn). Parks the agent."""

    detail: str


@dataclass(frozen=True, slots=True)
class Throttled:
    """A quota is used up (429). Pauses what it names; costs no attempt."""

    detail: str
    retry_after_ms: int | None
    whole_tenant: bool
    """True: the server's own quota; False: the model behind this agent."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The server reported a failure, or the call never reached it: trying again cannot double the turn."""

    detail: str
    retry_after_ms: int | None = None
    counts: bool = True
    """False where the server as a whole is away: the attempt was not this message's."""
    trouble: Trouble | None = None
    """None where it says nothing of the server: the agent, its model or the message is the reason."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Trying again cannot help: the request itself, or the agent, is the reason."""

    cause: Cause
    detail: str


@dataclass(frozen=True, slots=True)
class BrokenHistory:
    """The model refuses what the agent already has behind it, whatever the message: parks the agent, costs nothing."""

    detail: str


@dataclass(frozen=True, slots=True)
class FateUnknown:
    """The call was cut: the turn may have run, may still run, or may never have begun."""

    detail: str
    run_id: str | None = None
    counts: bool = True
    """False where the server as a whole is away: the attempt was not this message's."""


Outcome = Replied | Busy | AwaitsApproval | Throttled | Failed | Rejected | BrokenHistory | FateUnknown
