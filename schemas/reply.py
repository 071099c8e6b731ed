"""How a message ended, for a reader that is no agent: what stands on the stream or queue of its `reply_to`."""

from pydantic import BaseModel, ConfigDict, Field

from schemas.delivery import Cause, State
from schemas.ids import DeliveryId, MessageId


class Reply(BaseModel):
    """One document for each delivery, whichever way it ended: whoever waits for it never waits in vain.

    One that ended as a dead letter and was redriven is told of again when it comes to its next end, under the same
    id: the later document holds. Where replies are gathered, one document tells of them all.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", title="Postroom reply")

    id: DeliveryId | MessageId = Field(
        description="The delivery's id; the message's where it came into no mailbox, or its replies were gathered."
    )
    message_id: MessageId = Field(description="The message that this answers.")
    delivery_id: DeliveryId | None = None
    agent: str | None = Field(default=None, description="The id of the agent that it was for.")
    state: State = Field(description="How it ended: delivered, or why there is no reply.")
    cause: Cause | None = None
    detail: str = Field(default="", description="More words where it did not go well; why an empty reply is empty.")
    text: str | None = Field(default=None, description="What the agent said, where it was delivered.")
    stop_reason: str | None = None
    run_id: str | None = None
    total_tokens: int | None = None
    at_ms: int = Field(description="When it ended, by Redis' clock, in milliseconds since 1970.")
    correlation_id: str = Field(description="The message's own, or its id.")
