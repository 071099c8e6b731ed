"""Replies for readers that are no agents: on a stream or a queue of the tenant's own. Reads without consuming.

The scripts post them in the step that ends a delivery (lua/ledger.lua, post_end).
"""

from dataclasses import dataclass

from pydantic import ValidationError

from schemas.address import QueueAddress, StreamAddress
from schemas.context import Context
from schemas.envelope import Envelope
from schemas.ids import MessageId
from schemas.reply import Reply
from workers.broker import keys
from workers.broker.client import Client

FIELD = b"message"
"""Of a stream's entry, as on the stream of tasks."""


@dataclass(frozen=True, slots=True)
class Posted:
    """A document with its place."""

    reply: Reply
    entry_id: str | None
    """On a stream: what XREAD goes on behind. None on a queue."""


def answers_of(envelope: Envelope, message_id: MessageId) -> str:
    """Where the message's ends are posted, as its record keeps it: `stream|name|correlation`, or nothing."""
    correlation = envelope.correlation_id or message_id
    match envelope.reply_to:
        case StreamAddress(stream=stream):
            return f"stream|{stream}|{correlation}"
        case QueueAddress(queue=queue):
            return f"queue|{queue}|{correlation}"
        case _:
            return ""


def key_of(context: Context, place: StreamAddress | QueueAddress) -> str:
    """What a reader asks Redis for."""
    names = keys.of(context)
    return names.out(place.stream) if isinstance(place, StreamAddress) else names.callback(place.queue)


async def read_replies(
    context: Context, client: Client, place: StreamAddress | QueueAddress, *, limit: int
) -> list[Posted]:
    """The newest that are there, newest first; none where nothing was ever posted. They stay where they are."""
    key = key_of(context, place)
    if isinstance(place, QueueAddress):
        documents: list[bytes] = await client.lrange(key, -limit, -1)
        found = [_posted(one, None) for one in reversed(documents)]
    else:
        entries = await client.xrevrange(key, count=limit)
        found = [_posted(fields.get(FIELD, b""), entry_id.decode()) for entry_id, fields in entries]
    return [one for one in found if one is not None]


def _posted(document: bytes, entry_id: str | None) -> Posted | None:
    try:
        return Posted(Reply.model_validate_json(document), entry_id)
    except ValidationError:
        # Somebody else put it there.
        return None
