"""Closes gatherings: when enough replies of a team have come, or the time is over, they go on as one message."""

from pydantic import ValidationError

from schemas.address import AgentAddress, TeamAddress, in_short
from schemas.context import Context
from schemas.envelope import MAX_CONTENT_BYTES, Envelope, Gather, Kind, fitting
from schemas.gathered import Gathered, gathered
from schemas.ids import MessageId, delivery_id, reply_id_of
from schemas.newer import stored_by_a_newer
from workers.broker import keys
from workers.bus.receipts import read_receipt
from workers.errors import NotFoundError
from workers.mailbox.ring import Bells
from workers.patience import Patience
from workers.resources import Resources

ROOM_FOR_WORDS = 16 * 1024
"""Bytes kept free for what stands between the replies."""


class Gatherer:
    """One for a dispatcher; the sweeper tells it what is due."""

    def __init__(self, resources: Resources, bells: Bells) -> None:
        self._resources = resources
        self._bells = bells
        self._patience = Patience(resources.clock, resources.settings.newer_wait_seconds)

    async def close(self, context: Context, message_id: MessageId) -> bool:
        """Closes one gathering that is due. Of several that try, one does. False: it is left to a newer sweeper.

        Raises:
            RedisError, OSError: Redis is away; it stays due.
        """
        client, scripts = self._resources.client, self._resources.scripts
        raw = await client.hget(keys.of(context).message(message_id), "envelope")
        try:
            envelope = Envelope.model_validate_json(raw or b"")
            receipt = await read_receipt(context, client, message_id)
        except (ValidationError, NotFoundError) as error:
            newer = isinstance(error, ValidationError) and stored_by_a_newer(raw, error)
            if newer and not self._patience.is_over(message_id):
                return False
            # Only a hand in Redis can do this: there is nobody left to tell.
            await scripts.gather(context, message_id=message_id)
            return True
        gather = envelope.gather or Gather(within=1)
        found = gathered(receipt, receipt.recipients if gather.want == "all" else gather.want)
        text = in_text(found)
        reply = as_one(envelope, found, text)
        status, look_ms = await scripts.gather(
            context,
            message_id=message_id,
            text=text,
            deliveries=tuple(one.delivery_id for one in found.replies),
            forward_id=(reply.id or "") if reply else "",
            forward_digest=reply.digest() if reply else "",
            forward_envelope=reply.to_wire() if reply else "",
        )
        await self._bells.note(context, look_ms)
        log = self._resources.log.of(context)
        log.info("gathered", message=message_id, replies=len(found.replies), missing=len(found.missing), status=status)
        return True


def as_one(envelope: Envelope, found: Gathered, text: str) -> Envelope | None:
    """The gathered replies as a message to `reply_to`; None: the sender reads them from the receipt."""
    if not isinstance(envelope.reply_to, AgentAddress | TeamAddress):
        return None
    return Envelope(
        id=reply_id_of(delivery_id(found.message_id, 0)),
        kind=Kind.REPLY,
        sender=in_short(envelope.to),
        to=envelope.reply_to,
        content=text,
        priority=envelope.priority,
        correlation_id=envelope.correlation_id or found.message_id,
        causation_id=found.message_id,
        hops=envelope.hops + 1,
        on_unknown=envelope.on_unknown,
        trace=envelope.trace,
    )


def in_text(found: Gathered) -> str:
    """The gathered replies for a reader of text: who said what, and who did not answer."""
    parts = [f"{len(found.replies)} of {found.recipients} replies to {found.message_id}"]
    room = (MAX_CONTENT_BYTES - ROOM_FOR_WORDS) // max(1, len(found.replies))
    for reply in found.replies:
        empty = f"(empty: the turn ended by {reply.stop_reason})"
        parts.append(f"[{reply.who}]\n{fitting(reply.text, most=room) if reply.text.strip() else empty}")
    if found.missing:
        absent = ", ".join(f"{one.who} ({one.state})" for one in found.missing)
        parts.append(f"Without: {absent}")
    return "\n\n".join(parts)
