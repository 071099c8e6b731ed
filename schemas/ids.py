"""What names look like. Every pattern that guards a Redis key or a path stands here and nowhere else."""

import hashlib
import re
from typing import Annotated, NewType

from pydantic import StringConstraints

TENANT_PATTERN = r"^[a-z0-9][a-z0-9-]{0,39}$"
MESSAGE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
DELIVERY_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}:[0-9]{1,6}$"
TEAM_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
READER_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,99}$"
AGENT_ID_PATTERN = r"^agent-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"

TenantId = Annotated[str, StringConstraints(pattern=TENANT_PATTERN)]
MessageId = Annotated[str, StringConstraints(pattern=MESSAGE_PATTERN)]
DeliveryId = Annotated[str, StringConstraints(pattern=DELIVERY_PATTERN)]
TeamName = Annotated[str, StringConstraints(pattern=TEAM_PATTERN)]
AgentId = Annotated[str, StringConstraints(pattern=AGENT_ID_PATTERN)]
RunId = NewType("RunId", str)

_TENANT = re.compile(TENANT_PATTERN)
_MESSAGE = re.compile(MESSAGE_PATTERN)
_DELIVERY = re.compile(DELIVERY_PATTERN)
_TEAM = re.compile(TEAM_PATTERN)
_READER = re.compile(READER_PATTERN)
_AGENT_ID = re.compile(AGENT_ID_PATTERN)


def is_tenant_id(text: str) -> bool:
    """Lower-case letters, digits and dashes, 1 to 40, not starting with a dash."""
    return _TENANT.fullmatch(text) is not None


def is_message_id(text: str) -> bool:
    """Letters, digits, dot, dash and underscore, 1 to 100, starting with a letter or digit."""
    return _MESSAGE.fullmatch(text) is not None


def is_delivery_id(text: str) -> bool:
    """A message id, a colon and the recipient's number in the message's snapshot."""
    return _DELIVERY.fullmatch(text) is not None


def is_team_name(text: str) -> bool:
    """Letters, digits, dot, dash and underscore, 1 to 64, starting with a letter or digit."""
    return _TEAM.fullmatch(text) is not None


def is_reader_name(text: str) -> bool:
    """Letters, digits, dot, dash, underscore, colon and at, 1 to 100, starting with a letter or digit."""
    return _READER.fullmatch(text) is not None


def is_agent_id(text: str) -> bool:
    """`agent-` and a lower-case uuid, as Letta makes them."""
    return _AGENT_ID.fullmatch(text) is not None


def delivery_id(message_id: MessageId, number: int) -> DeliveryId:
    """The id of the delivery to the message's `number`th recipient, counted from 1."""
    return f"{message_id}:{number}"


def message_of(delivery: DeliveryId) -> MessageId:
    """The message a delivery belongs to."""
    return delivery.rpartition(":")[0]


def message_id_of_entry(entry_id: str) -> MessageId:
    """The id of a message that was put on the stream without one: the same whenever the entry is read."""
    return f"x{entry_id}"


def reply_id_of(delivery: DeliveryId) -> MessageId:
    """The id of the reply a delivery sends on: one delivery has at most one, however often it is settled.

    A digest, because replies to replies would otherwise outgrow the pattern.
    """
    return "r" + hashlib.blake2b(delivery.encode(), digest_size=13).hexdigest()
