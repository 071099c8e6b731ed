"""One message for one agent: the states it can be in, and why it is there."""

import re
from dataclasses import dataclass
from enum import StrEnum

from schemas.ids import AgentId, DeliveryId, MessageId

_CAUSE = re.compile(r"[a-z][a-z0-9_]{0,63}")


class State(StrEnum):
    """Where a delivery is. Exactly one at any time, changed only by a script under its fencing token."""

    ACCEPTED = "accepted"
    WAITING = "waiting"
    RUNNING = "running"
    DELIVERED = "delivered"
    EXPIRED = "expired"
    REFUSED = "refused"
    DEAD = "dead"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    @property
    def is_final(self) -> bool:
        """Whether nothing can follow but a redrive."""
        return self not in {State.ACCEPTED, State.WAITING, State.RUNNING}


class Cause(StrEnum):
    """Why a delivery waits or how it came to its end."""

    # it waits
    NOT_BEFORE = "not_before"
    RATE_TENANT = "rate_tenant"
    RATE_TEAM = "rate_team"
    RATE_AGENT = "rate_agent"
    BUSY = "busy"
    APPROVAL = "approval"
    BACKOFF = "backoff"
    THROTTLED = "throttled"
    SERVER_AWAY = "server_away"
    LOOKING = "looking"
    RECOVERED = "recovered"
    RETURNED = "returned"
    SUSPENDED = "suspended"
    PAUSED = "paused"
    BEHIND = "behind"
    IN_FLIGHT = "in_flight"
    FULL = "full"
    PARKED = "parked"
    SUSPECT = "suspect"
    REDRIVEN = "redriven"
    # it ended
    REPLIED = "replied"
    TTL = "ttl"
    INVALID = "invalid"
    TENANT_MISMATCH = "tenant_mismatch"
    CONFLICT = "conflict"
    UNKNOWN_AGENT = "unknown_agent"
    AMBIGUOUS_AGENT = "ambiguous_agent"
    UNKNOWN_TEAM = "unknown_team"
    NO_RECIPIENTS = "no_recipients"
    TOO_MANY_RECIPIENTS = "too_many_recipients"
    UNSCOPED = "unscoped"
    LOOP = "loop"
    ATTEMPTS = "attempts"
    REJECTED = "rejected"
    POISON = "poison"
    OUTCOME_UNKNOWN = "outcome_unknown"
    BY_SENDER = "by_sender"
    DISCARDED = "discarded"
    GATHERED = "gathered"
    NEWER = "newer"

    @classmethod
    def _missing_(cls, value: object) -> "Cause | None":
        """A newer version may know more causes: what it wrote down is read as it stands, and is equal to no other."""
        if not isinstance(value, str) or _CAUSE.fullmatch(value) is None:
            return None
        cause = str.__new__(cls, value)
        cause._name_ = value.upper()
        cause._value_ = value
        return cause


@dataclass(frozen=True, slots=True)
class Taken:
    """A delivery under a lease: all a worker needs to run the turn."""

    id: DeliveryId
    message_id: MessageId
    agent: AgentId
    token: int
    attempt: int
    epoch: int
    fate_open: bool
    """Whether an earlier call under this epoch may have reached the server."""
    opened_at_ms: int
    """When the first call under this epoch may have begun, by Redis' clock."""
    run_id: str | None
    expires_at_ms: int | None
    accepted_at_ms: int
    envelope: bytes
    incarnation: str = ""
    """Which tenant of this name: another one has its own deliveries under the same ids."""
    crashes: int = 0
    """How many workers have fallen silent over it."""

    def is_suspect(self, max_crashes: int) -> bool:
        """Whether the next worker to fall silent over it may be the last: such ones go one at a time (lua/take.lua)."""
        return self.crashes >= max(1, max_crashes - 1)
