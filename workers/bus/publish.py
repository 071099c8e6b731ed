"""Publishing: validate at the door, then one script puts the message on the stream, once for each id."""

from dataclasses import dataclass

from schemas.address import SelectorAddress
from schemas.agent import tenant_tag
from schemas.context import Context, Role
from schemas.delivery import Cause, State
from schemas.envelope import Envelope
from schemas.ids import MessageId
from schemas.receipt import Receipt
from workers.broker.client import REDIS_AWAY
from workers.broker.scripts import Scripts
from workers.bus.admission import Admission
from workers.bus.door import Refusal
from workers.bus.replies import answers_of
from workers.errors import ConflictError, NotAcceptedError, NotFoundError, OverloadedError, RefusedError, SuspendedError
from workers.ids import new_message_id


@dataclass(frozen=True, slots=True)
class Publisher:
    """The producer's side of the stream."""

    scripts: Scripts
    admission: Admission

    async def publish(self, context: Context, envelope: Envelope) -> Receipt:
        """Accepts one envelope. Publishing it again under the same id adds nothing.

        Raises:
            Refusal: it goes to every agent of the tenant, and the principal is no operator.
            ConflictError: the same id with another body.
            NotFoundError: the tenant is not registered.
            SuspendedError: the tenant is suspended.
            RefusedError: it has expired, or is larger than all that the tenant may have.
            OverloadedError: the tenant's bytes, or Redis' memory, are used up; try later.
            NotAcceptedError: Redis, or as many replicas as were asked for, did not confirm; publish again under the
                same id.
        """
        _check_scope(context, envelope)
        message_id = envelope.id or new_message_id()
        known = envelope.model_copy(update={"id": message_id, "tenant": None})
        wire = known.to_wire()
        try:
            await self.admission.check(context)
            answer = await self.scripts.publish(
                context,
                message_id=message_id,
                digest=known.digest(),
                envelope=wire,
                size=len(wire.encode()),
                expires_at_ms=None if known.expires_at is None else known.expires_at_ms(0),
                answers=answers_of(known, message_id),
                by_operator=Role.OPERATOR in context.roles,
            )
        except REDIS_AWAY as error:
            raise NotAcceptedError(
                f"Redis did not confirm message {message_id} ({type(error).__name__}): "
                "publish it again under the same id"
            ) from error
        _raise_for(answer.status, context, message_id)
        if not answer.confirmed:
            raise NotAcceptedError(
                f"message {message_id} was not confirmed by enough replicas (POSTROOM_WAIT_REPLICAS): "
                "publish it again under the same id"
            )
        return Receipt(
            message_id=message_id,
            state=State.ACCEPTED,
            accepted_at_ms=answer.accepted_at_ms,
            expires_at_ms=envelope.expires_at_ms(answer.accepted_at_ms),
            duplicate=answer.status == "duplicate",
        )


def _check_scope(context: Context, envelope: Envelope) -> None:
    if not isinstance(envelope.to, SelectorAddress) or Role.OPERATOR in context.roles:
        return
    if envelope.to.is_unscoped(own_tag=tenant_tag(context.tenant)):
        said = "selects every agent of the tenant, which only an operator may: narrow it by tags or a name"
        raise Refusal(said, where="to", cause=Cause.UNSCOPED)


def _raise_for(status: str, context: Context, message_id: MessageId) -> None:
    match status:
        case "accepted" | "duplicate":
            return
        case "conflict":
            raise ConflictError("was published before with another body", where=f"id {message_id!r}")
        case "unknown_tenant":
            raise NotFoundError(f"there is no tenant {context.tenant!r}")
        case "suspended":
            raise SuspendedError("is suspended", where=f"tenant {context.tenant!r}")
        case "expired":
            raise RefusedError("has passed, by Redis' clock", where="expires_at")
        case "too_large":
            raise RefusedError("is more than the tenant may have accepted at all", where="content")
        case _:
            raise OverloadedError("has no room now; try again later", where=f"tenant {context.tenant!r}")
