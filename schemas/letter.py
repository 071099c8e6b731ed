"""A dead letter: what could not be delivered, why, and the message as it came. Kept until somebody acts."""

from pydantic import BaseModel, ConfigDict

from schemas.delivery import Cause, State


class DeadLetter(BaseModel):
    """One entry of a tenant's dead letters."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    entry_id: str
    at_ms: int
    message_id: str | None
    delivery_id: str | None
    state: State
    cause: Cause
    detail: str
    attempts: int
    raw: bytes | None
    """The entry as it came, where no ledger record holds its content."""
