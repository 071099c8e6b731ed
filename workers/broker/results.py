"""What goes into the scripts and what comes out, as plain frozen records."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from schemas.delivery import Cause, State, Taken
from schemas.ids import AgentId, DeliveryId, MessageId
from workers.broker.rules import Pool


@dataclass(frozen=True, slots=True)
class Published:
    """The answer to a publish."""

    status: str
    """accepted, duplicate, conflict, unknown_tenant, suspended, expired, too_large or overloaded."""
    accepted_at_ms: int
    confirmed: bool = True
    """Whether as many replicas have it as were asked for."""


@dataclass(frozen=True, slots=True)
class Move:
    """One entry of the stream, validated and resolved."""

    entry_id: str
    message_id: MessageId
    digest: str
    envelope: str
    size: int
    rank: int
    not_before_ms: int | None
    expires_at_ms: int | None
    recipients: tuple[tuple[AgentId, tuple[str, ...]], ...]
    """Each agent with its teams."""
    gather_want: int | None = None
    """How many replies are enough; None: nothing is gathered."""
    gather_within_ms: int | None = None
    """After how long those that have come are enough."""
    answers: str = ""
    """Where its ends are posted for readers that are no agents, as workers/bus/replies.py spells it; else empty."""

    def as_arguments(self) -> tuple[str | int, ...]:
        """In the order of lua/dispatch.lua and lua/snapshot.lua, without the recipients."""
        times = (self.not_before_ms, self.expires_at_ms, self.gather_want, self.gather_within_ms)
        return (
            self.entry_id,
            self.message_id,
            self.digest,
            self.envelope,
            self.size,
            self.rank,
            *("" if one is None else one for one in times),
            self.answers,
        )


@dataclass(frozen=True, slots=True)
class Dispatched:
    """The answer to a dispatch."""

    status: str
    """moved, duplicate, conflict, gone, full or lost."""
    next_look_ms: int
    pools: tuple[Pool, ...]


@dataclass(frozen=True, slots=True)
class TakenBatch:
    """The answer to a take."""

    now_ms: int
    more: bool
    next_look_ms: int
    taken: tuple[Taken, ...]
    confirmed: bool = True
    """As of a publish."""


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The answer to an abandon."""

    next_cursor: int
    """0 at the end."""
    leases: int
    """How many were taken back."""
    stream: bool
    """Whether the tenant's stream was the dead process's."""
    next_look_ms: int
    pools: tuple[Pool, ...]


Hold = Literal["", "agent", "tenant", "parked"]


@dataclass(frozen=True, slots=True)
class Settlement:
    """How one delivery is settled. Times are relative: the script adds Redis' own."""

    delivery_id: DeliveryId
    agent: AgentId
    token: int
    state: State
    """A final state, or WAITING: back to the mailbox."""
    cause: Cause
    detail: str = ""
    due_in_ms: int = 0
    hold: Hold = ""
    """Whom else to keep from being taken for `hold_ms`: this agent, or the whole tenant; `parked`: this agent, until
    somebody unparks it."""
    hold_ms: int = 0
    refund: bool = False
    """Whether this attempt costs nothing."""
    fate_open: bool = False
    """Whether the call may still reach, or have reached, the agent: the next attempt looks first."""
    run_id: str = ""
    reply: str = ""
    stop_reason: str = ""
    total_tokens: int = 0
    forward_id: MessageId = ""
    forward_digest: str = ""
    forward_envelope: str = ""

    def as_arguments(self) -> tuple[str | int, ...]:
        """In the order of lua/settle.lua."""
        return (
            self.delivery_id,
            self.agent,
            self.token,
            self.state,
            self.cause,
            _storable(self.detail),
            self.due_in_ms,
            self.hold,
            self.hold_ms,
            "1" if self.refund else "",
            "open" if self.fate_open else "closed",
            _storable(self.run_id),
            _storable(self.reply),
            _storable(self.stop_reason),
            self.total_tokens,
            self.forward_id,
            self.forward_digest,
            self.forward_envelope,
        )


def _storable(text: str) -> str:
    """A server's text without halves of surrogate pairs: valid in JSON, but no UTF-8, and one would stop a batch."""
    return text if text.isascii() else text.encode(errors="replace").decode()


@dataclass(frozen=True, slots=True)
class Settled:
    """The answer to a settle: one result for each settlement, settled, parked (with its agent), already or lost."""

    next_look_ms: int
    results: tuple[str, ...]
    pools: tuple[Pool, ...]


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The answer to a cancel: each of some deliveries with `cancelled` or the state that it is in."""

    found: bool
    results: tuple[tuple[str, str], ...]
    next_look_ms: int = 0
    """Now, where what stood behind a cancelled delivery can go and nobody is on the way."""
    go_on_at: int = 0
    """The number of the delivery to go on with; 0: these were the last."""


@dataclass(frozen=True, slots=True)
class Redriven:
    """The answer to a redrive."""

    status: str
    """redriven, gone, expired, full or conflict."""
    next_look_ms: int
    """Now, where it can go and nobody is on the way."""


@dataclass(frozen=True, slots=True)
class Swept:
    """The answer to a sweep: old claims to check against arq, gatherings to close, and pools to ring."""

    next_look_ms: int
    claims: tuple[tuple[Pool, str], ...]
    gathers: tuple[MessageId, ...]
    pools: tuple[Pool, ...]


@dataclass(frozen=True, slots=True)
class Expanded:
    """The answer to an expand."""

    status: str
    """moved, gone or lost."""
    left: int
    """How many recipients have no delivery yet."""
    next_look_ms: int
    pools: tuple[Pool, ...]


def parse_taken(row: Sequence[Any]) -> Taken:
    """One row of lua/take.lua."""
    id_, agent, token, attempt, epoch, fate_open, opened_at, run_id, expires_at, accepted_at, envelope, *more = row
    incarnation, crashes = more
    return Taken(
        id=id_.decode(),
        message_id=id_.decode().rpartition(":")[0],
        agent=agent.decode(),
        token=int(token),
        attempt=int(attempt),
        epoch=int(epoch),
        fate_open=bool(fate_open),
        opened_at_ms=int(opened_at),
        run_id=run_id.decode() or None,
        expires_at_ms=int(expires_at) if expires_at else None,
        accepted_at_ms=int(accepted_at),
        envelope=envelope,
        incarnation=incarnation.decode(),
        crashes=int(crashes),
    )
