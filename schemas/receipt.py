"""What a sender is told: where each delivery of its message is, and how it ended."""

from pydantic import BaseModel, ConfigDict, Field

from schemas.delivery import Cause, State
from schemas.ids import DeliveryId, MessageId


class Step(BaseModel):
    """One line of a delivery's history."""

    model_config = ConfigDict(frozen=True)

    at_ms: int
    state: State
    cause: Cause | None = None


class DeliveryReceipt(BaseModel):
    """One delivery of the message."""

    model_config = ConfigDict(frozen=True)

    id: DeliveryId
    agent: str
    agent_name: str | None = None
    teams: tuple[str, ...] = Field(default=(), description="The teams whose rates it counts under.")
    state: State
    cause: Cause | None = Field(
        default=None, description="How it ended; while it waits, what keeps it now. None: nothing does, its turn comes."
    )
    detail: str | None = Field(default=None, description="The last error in its own words; why a reply is empty.")
    attempts: int = 0
    due_at_ms: int | None = Field(default=None, description="Until when it is kept, where that is known.")
    delivered_at_ms: int | None = Field(
        default=None, description="When the server took the turn: named its run, or, where it named none, ended it."
    )
    read_at_ms: int | None = Field(default=None, description="When the turn ended.")
    ended_at_ms: int | None = Field(default=None, description="When it came to its end, whichever.")
    reply: str | None = None
    stop_reason: str | None = None
    run_id: str | None = None
    total_tokens: int | None = None
    late: bool = Field(default=False, description="The turn began in time and ended after the expiry.")
    reply_message_id: MessageId | None = None
    history: tuple[Step, ...] = ()


class Receipt(BaseModel):
    """One message. `state` is its only delivery's, or, while it has several, the least finished one's.

    A message to many tells its first deliveries, and how many have come to which end; `TenantClient.deliveries` reads
    the others page by page.
    """

    model_config = ConfigDict(frozen=True)

    message_id: MessageId
    state: State
    cause: Cause | None = None
    detail: str | None = None
    accepted_at_ms: int
    expires_at_ms: int | None = None
    duplicate: bool = Field(default=False, description="This publish was a repetition; nothing was added.")
    deliveries: tuple[DeliveryReceipt, ...] = ()
    recipients: int = Field(default=0, description="How many deliveries it has, whether told here or not.")
    open: int = Field(default=0, description="How many of them have not come to their end.")
    ends: dict[State, int] = Field(default_factory=dict, description="How many have come to which end.")
    paused_at_ms: int | None = Field(default=None, description="Since when no further turn of it begins.")
    gathered_at_ms: int | None = Field(default=None, description="When its replies were gathered.")
    gathered: frozenset[DeliveryId] | None = Field(default=None, description="The deliveries whose replies they are.")
    reply_message_id: MessageId | None = Field(default=None, description="The gathered replies, sent on as one.")
    acked_at_ms: dict[str, int] = Field(
        default_factory=dict, description="Since its end: which reader marked it as read, and when."
    )

    @property
    def is_final(self) -> bool:
        """Whether every delivery has come to its end."""
        return self.state.is_final

    @property
    def reply(self) -> str | None:
        """The first reply there is."""
        return next((d.reply for d in self.deliveries if d.reply is not None), None)
