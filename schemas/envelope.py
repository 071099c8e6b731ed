"""The one thing that travels: who writes to whom, what, how urgently and until when.

The smallest envelope is `{"to": {"agent": "researcher"}, "content": "..."}`. Fields this version does not
know survive a round trip; a version it does not know is refused.
"""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    field_validator,
    model_validator,
)

from schemas.address import Label, ReplyTo, TeamAddress, To
from schemas.ids import MessageId, TenantId
from schemas.team import MAX_MEMBERS

SCHEMA_VERSION: Literal[1] = 1
MAX_CONTENT_BYTES = 256 * 1024
MAX_METADATA_BYTES = 64 * 1024
MAX_TTL_SECONDS = 366 * 24 * 3600
HOP_LIMIT = 8
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
CUT = "\n\n[cut: the reply was longer than a message may be]"

Token = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]


class Kind(StrEnum):
    """What a message is for. Delivery treats them alike; receivers may not."""

    REQUEST = "request"
    REPLY = "reply"
    EVENT = "event"
    COMMAND = "command"
    BROADCAST = "broadcast"
    SYSTEM = "system"


class Priority(StrEnum):
    """Order inside a tenant, never between tenants."""

    URGENT = "urgent"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def rank(self) -> int:
        """0 for urgent to 3 for low: the order in a mailbox."""
        return _RANKS[self]


_RANKS = {priority: rank for rank, priority in enumerate(Priority)}
PRIORITY_OF_RANK: tuple[Priority, ...] = tuple(Priority)


class OnUnknown(StrEnum):
    """What to do when nobody can tell whether the agent got the message.

    `redeliver` may give the agent the message twice; `never_resend` ends as `unknown`, for a person to look at.
    """

    REDELIVER = "redeliver"
    NEVER_RESEND = "never_resend"


class Gather(BaseModel):
    """The replies of a team as one: sent when enough have come, or when the time is over."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    want: Annotated[int, Field(ge=1, le=MAX_MEMBERS)] | Literal["all"] = Field(
        default="all", description="How many replies are enough."
    )
    within: float = Field(gt=0, le=MAX_TTL_SECONDS, description="Seconds after acceptance; then those that have come.")


class Trace(BaseModel):
    """W3C trace context (https://www.w3.org/TR/trace-context/)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    traceparent: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")]
    tracestate: Annotated[str, StringConstraints(max_length=512)] | None = None


class Envelope(BaseModel):
    """A message as it stands on the wire, in JSON, in the `message` field of an entry of the tenant's stream."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False, title="Postroom envelope")

    schema_version: Literal[1] = Field(default=SCHEMA_VERSION, description="The version of this schema.")
    id: MessageId | None = Field(
        default=None,
        description="Unique in the tenant; the same id with the same body is accepted once. Made up if left out.",
    )
    tenant: TenantId | None = Field(
        default=None,
        description="Only checked: the tenant is the stream's, and an envelope that says otherwise is refused.",
    )
    kind: Kind = Kind.REQUEST
    sender: Label = Field(default="producer", description="A label for people, or `agent:<id>` in a reply.")
    to: To
    content: str = Field(description=f"The text, at most {MAX_CONTENT_BYTES} bytes of UTF-8.")
    priority: Priority = Priority.NORMAL
    expires_at: AwareDatetime | None = Field(default=None, description="No turn starts after this time.")
    ttl: float | None = Field(
        default=None, gt=0, le=MAX_TTL_SECONDS, description="The same in seconds after acceptance."
    )
    not_before: AwareDatetime | None = Field(default=None, description="No turn starts before this time.")
    reply_to: ReplyTo | None = Field(
        default=None, description="Where the reply is sent on to: an agent, a team, a stream or a queue of the tenant."
    )
    gather: Gather | None = Field(default=None, description="To a team only: the replies as one.")
    conversation: Token | None = Field(default=None, description="A conversation of the agent; left out, its main one.")
    correlation_id: Label | None = None
    causation_id: Label | None = Field(default=None, description="The message this one answers or follows from.")
    hops: int = Field(
        default=0, ge=0, le=1000, description=f"How far from the root of its chain; refused at {HOP_LIMIT}."
    )
    on_unknown: OnUnknown = OnUnknown.REDELIVER
    metadata: dict[str, JsonValue] = Field(default_factory=dict, description="Kept with the message, not sent.")
    trace: Trace | None = None

    @field_validator("content")
    @classmethod
    def _content_fits(cls, content: str) -> str:
        if not content.strip():
            # LETTA.md section 2: a server answers empty content with 400.
            raise ValueError("content is empty")
        if "\x00" in content:
            # PostgreSQL, behind every Letta server, stores no NUL in text.
            raise ValueError("content has a NUL character")
        size = len(content.encode())
        if size > MAX_CONTENT_BYTES:
            raise ValueError(f"content is {size} bytes, more than {MAX_CONTENT_BYTES}")
        return content

    @model_validator(mode="after")
    def _times_fit(self) -> Self:
        if self.ttl is not None and self.expires_at is not None:
            raise ValueError("give ttl or expires_at, not both")
        if self.not_before is not None and self.expires_at is not None and self.not_before >= self.expires_at:
            raise ValueError("not_before is not before expires_at")
        return self

    @model_validator(mode="after")
    def _gathers_from_a_team(self) -> Self:
        if self.gather is not None and not isinstance(self.to, TeamAddress):
            raise ValueError("gather is for messages to a team")
        return self

    def expires_at_ms(self, accepted_ms: int) -> int | None:
        """When the message expires, in epoch milliseconds, given when it was accepted; None: never."""
        if self.ttl is not None:
            return accepted_ms + round(self.ttl * 1000)
        return (self.expires_at - EPOCH) // MILLISECOND if self.expires_at is not None else None

    def not_before_ms(self) -> int | None:
        """The earliest time of a turn, in epoch milliseconds; None: at once."""
        # Up to the next whole one: never before its time. Whole numbers, because a float of seconds may lie below.
        return -((EPOCH - self.not_before) // MILLISECOND) if self.not_before is not None else None

    def to_wire(self) -> str:
        """JSON without what was left out, unknown fields included, whatever their value."""
        return self.model_dump_json(exclude_defaults=True)

    def digest(self) -> str:
        """Tells the same message from another one under the same id.

        Over what the sender said, in one canonical form. The trace is left out, because a publish that is
        tried again is the same message on another span; and so is how many agents are meant at most, because
        one more or less may be found by the time of the second try.
        """
        said = self.model_dump(
            mode="json", exclude={"id": True, "tenant": True, "trace": True, "to": {"at_most"}}, exclude_defaults=True
        )
        canonical = json.dumps(said, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def fitting(text: str, *, most: int = MAX_CONTENT_BYTES) -> str:
    """The text as a message may carry it: without NUL and halves of surrogate pairs, and cut, with a notice, where
    it is longer than so many bytes of UTF-8.
    """
    clean = text.replace("\x00", "").encode(errors="replace")
    if len(clean) <= most:
        return clean.decode()
    return clean[: most - len(CUT.encode())].decode(errors="ignore") + CUT
