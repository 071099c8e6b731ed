"""One change of state, as it stands on a tenant's events stream."""

from pydantic import BaseModel, ConfigDict

from schemas.delivery import Cause, State
from schemas.ids import DeliveryId, MessageId


class Event(BaseModel):
    """What happened to a message (no delivery yet, or none at all) or to one of its deliveries."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    at_ms: int
    message_id: MessageId
    delivery_id: DeliveryId | None = None
    agent: str | None = None
    state: State
    cause: Cause | None = None
