"""What an exported tenant is made of: one document a line, each with its kind, the header first and the end last."""

from typing import Literal

from pydantic import Base64Bytes, BaseModel, ConfigDict

from schemas.agent import Agent
from schemas.envelope import Envelope
from schemas.event import Event
from schemas.letter import DeadLetter
from schemas.receipt import DeliveryReceipt, Receipt
from schemas.tenant import Tenant

VERSION = 1


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True)


class Header(_Line):
    """The first line."""

    kind: Literal["header"] = "header"
    version: int = VERSION
    tenant: str
    at_ms: int
    content: bool
    """Whether what people and agents wrote is in it."""


class TenantLine(_Line):
    """The tenant and its limits, with its counts."""

    kind: Literal["tenant"] = "tenant"
    tenant: Tenant
    counters: dict[str, int]


class RecordLine(_Line):
    """A record of the register or the directory, as it is kept: a team, or an agent that is parked."""

    kind: Literal["team", "parked"]
    name: str
    record: str


class AgentLine(_Line):
    """An agent as it is remembered."""

    kind: Literal["agent"] = "agent"
    agent: Agent


class MessageLine(_Line):
    """A message with its deliveries, their histories and replies. No envelope: refused, or without content."""

    kind: Literal["message"] = "message"
    receipt: Receipt
    envelope: Envelope | None


class DeliveryLine(_Line):
    """One more delivery of the message before, where it has more than a receipt tells."""

    kind: Literal["delivery"] = "delivery"
    delivery: DeliveryReceipt


class LetterLine(_Line):
    """A dead letter; `raw` is what came, in base64."""

    kind: Literal["letter"] = "letter"
    letter: DeadLetter
    raw: Base64Bytes | None


class EventLine(_Line):
    """A change of state."""

    kind: Literal["event"] = "event"
    event: Event


class StoredLine(_Line):
    """What stands on a stream or in a queue: an entry that is not dispatched, or a reply that nobody has read."""

    kind: Literal["entry", "reply"]
    where: str
    """`tasks`, `out:NAME` or `callback:NAME`."""
    id: str | None
    """Of the entry; None in a queue."""
    fields: dict[str, Base64Bytes]
    """Bytes, in base64; empty without content."""


class End(_Line):
    """The last line: without it the file is not whole."""

    kind: Literal["end"] = "end"
    counts: dict[str, int]


Line = (
    Header
    | TenantLine
    | RecordLine
    | AgentLine
    | MessageLine
    | DeliveryLine
    | LetterLine
    | EventLine
    | StoredLine
    | End
)
