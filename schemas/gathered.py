"""The replies of a team as one: who answered in time, and what became of the others."""

from pydantic import BaseModel, ConfigDict, Field

from schemas.delivery import Cause, State
from schemas.ids import DeliveryId, MessageId
from schemas.receipt import DeliveryReceipt, Receipt


class TeamReply(BaseModel):
    """One agent's answer."""

    model_config = ConfigDict(frozen=True)

    delivery_id: DeliveryId
    agent: str
    agent_name: str | None = None
    text: str
    stop_reason: str | None = None
    at_ms: int = Field(description="When its turn ended.")

    @property
    def who(self) -> str:
        """The agent's name where one is known."""
        return self.agent_name or self.agent


class Missing(BaseModel):
    """An agent whose answer was not gathered, and where its delivery is, or how it ended."""

    model_config = ConfigDict(frozen=True)

    delivery_id: DeliveryId
    agent: str
    agent_name: str | None = None
    state: State = Field(description="delivered: it answered later than the gathering was closed, or was not needed.")
    cause: Cause | None = None

    @property
    def who(self) -> str:
        """The agent's name where one is known."""
        return self.agent_name or self.agent


class Gathered(BaseModel):
    """A gathering that is closed, or that would be closed now."""

    model_config = ConfigDict(frozen=True)

    message_id: MessageId
    recipients: int
    complete: bool = Field(description="Whether as many answered as were wanted.")
    closed_at_ms: int | None = Field(default=None, description="When it was closed; null: it is not yet.")
    replies: tuple[TeamReply, ...] = Field(description="In the order in which the turns ended.")
    missing: tuple[Missing, ...] = ()


def gathered(receipt: Receipt, want: int) -> Gathered:
    """What has been gathered of `want` replies: those that a closed gathering was closed with, or else those that
    have come by now, the first ones first.
    """
    delivered = sorted(
        (one for one in receipt.deliveries if one.state is State.DELIVERED),
        key=lambda one: (one.read_at_ms or 0, one.id),
    )
    chosen = delivered[:want]
    if receipt.gathered is not None:
        chosen = [one for one in delivered if one.id in receipt.gathered]
    ids = {one.id for one in chosen}
    return Gathered(
        message_id=receipt.message_id,
        recipients=receipt.recipients,
        complete=len(chosen) >= min(want, receipt.recipients),
        closed_at_ms=receipt.gathered_at_ms,
        replies=tuple(_reply(one) for one in chosen),
        missing=tuple(_missing(one) for one in receipt.deliveries if one.id not in ids),
    )


def _reply(one: DeliveryReceipt) -> TeamReply:
    return TeamReply(
        delivery_id=one.id,
        agent=one.agent,
        agent_name=one.agent_name,
        text=one.reply or "",
        stop_reason=one.stop_reason,
        at_ms=one.read_at_ms or 0,
    )


def _missing(one: DeliveryReceipt) -> Missing:
    return Missing(delivery_id=one.id, agent=one.agent, agent_name=one.agent_name, state=one.state, cause=one.cause)
