"""The Python client, bound to one tenant: send, ask, receipt, cancel.

async with TenantClient.open("redis://localhost:6379/0", tenant="acme") as acme:
    receipt = await acme.ask("researcher", "What is new in memory management?", within=60)
    print(receipt.reply)
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from typing import Any, Self

from opentelemetry.trace import SpanKind

from schemas.address import ReplyTo
from schemas.context import Context, Role
from schemas.envelope import Kind, OnUnknown, Priority
from schemas.ids import AgentId, MessageId, TenantId, is_message_id
from schemas.receipt import Receipt
from workers import settings as settings_module
from workers.broker import agenda
from workers.broker.client import REDIS_AWAY
from workers.bus import door
from workers.bus.admission import Admission
from workers.bus.events import Listener
from workers.bus.publish import Publisher
from workers.bus.receipts import read_receipt
from workers.errors import DeadlineError, NotAcceptedError, NotFoundError, RedisUnavailableError, TooLateError
from workers.ids import new_message_id
from workers.resources import Resources, build
from workers.telemetry import to_envelope

LOOK_EVERY_SECONDS = 5.0
"""Who waits looks at the receipt this often, whether or not an event came."""
PUBLISH_PAUSES_SECONDS = (0.1, 0.3, 1.0)
"""A publish that Redis did not confirm is tried again under the same id: it cannot double."""
PUBLISH_WITHIN_SECONDS = 4.0
"""No try begins later than this: a Redis that hangs costs each its timeout, and the producer knows best what then."""


class TenantClient:
    """Everything a producer of one tenant can do."""

    def __init__(self, context: Context, resources: Resources) -> None:
        self.context = context
        self._resources = resources
        admission = Admission(resources.client, resources.clock)
        self._publisher = Publisher(resources.scripts, admission)
        self._listener = Listener(context, resources.client, resources.clock)

    @classmethod
    @asynccontextmanager
    async def open(cls, redis_url: str, *, tenant: TenantId, principal: str = "python") -> AsyncIterator[Self]:
        """A client on its own connections, closed at the end of the block."""
        settings = settings_module.load(redis_url=redis_url)
        resources = build(settings, "client")
        client = cls(Context(tenant=tenant, principal=principal, roles=frozenset({Role.PRODUCER})), resources)
        try:
            yield client
        finally:
            await client.close()
            await resources.close()

    async def close(self) -> None:
        """Stops listening. The resources are the opener's."""
        await self._listener.close()

    async def send(
        self,
        agent: str | AgentId,
        content: str,
        *,
        id: MessageId | None = None,  # noqa: A002  # the field's name on the wire
        kind: Kind = Kind.REQUEST,
        priority: Priority | str = Priority.NORMAL,
        expires_in: float | None = None,
        not_before: datetime | None = None,
        reply_to: str | ReplyTo | dict[str, Any] | None = None,
        conversation: str | None = None,
        sender: str | None = None,
        on_unknown: OnUnknown | str = OnUnknown.REDELIVER,
        metadata: dict[str, Any] | None = None,
    ) -> Receipt:
        """Publishes one message to an agent, by name or id. `expires_in` is in seconds. `reply_to` is an agent, by
        name or id, or any address that can take a reply: a team, a stream, a queue.

        Returns a receipt in state `accepted`: from here on the message comes to exactly one recorded end.

        Raises:
            Refusal: a field is wrong; nothing was stored.
            ConflictError, NotFoundError, SuspendedError, OverloadedError, NotAcceptedError: see Publisher.publish.
        """
        document: dict[str, Any] = {
            "id": id,
            "kind": kind,
            "to": {"agent": agent},
            "content": content,
            "priority": priority,
            "ttl": expires_in,
            "not_before": not_before,
            "reply_to": _reply_to(reply_to),
            "conversation": conversation,
            "sender": sender or self.context.principal,
            "on_unknown": on_unknown,
            "metadata": metadata or {},
        }
        return await self.publish({name: value for name, value in document.items() if value is not None})

    async def publish(self, document: dict[str, Any]) -> Receipt:
        """Publishes an envelope given as a document, as it would stand on the stream.

        Raises:
            Refusal: a field is wrong; nothing was stored.
            ConflictError, NotFoundError, SuspendedError, OverloadedError, NotAcceptedError: see Publisher.publish.
        """
        envelope = door.check(self.context, {**document, "id": document.get("id") or new_message_id()})
        with self._resources.telemetry.span(self.context, "send tasks", SpanKind.PRODUCER) as span:
            if envelope.trace is None:
                envelope = envelope.model_copy(update={"trace": to_envelope(span.trace)})
            clock = self._resources.clock
            last_at = clock.monotonic() + PUBLISH_WITHIN_SECONDS
            for pause in PUBLISH_PAUSES_SECONDS:
                try:
                    return await self._publisher.publish(self.context, envelope)
                except NotAcceptedError:
                    if clock.monotonic() + pause > last_at:
                        raise
                    await clock.sleep(pause)
            return await self._publisher.publish(self.context, envelope)

    async def ask(self, agent: str | AgentId, content: str, *, within: float, **options: Any) -> Receipt:
        """Sends and waits for the end, at most `within` seconds; the message expires with the wait.

        Raises:
            DeadlineError: no end in time; the receipt tells what comes of it.
            and what `send` raises.
        """
        sent = await self.send(agent, content, **{"expires_in": within, **options})
        return await self.wait(sent.message_id, within=within)

    async def receipt(self, message_id: MessageId) -> Receipt:
        """What became of a message, with its history.

        Raises:
            NotFoundError: no such message in this tenant.
            RedisUnavailableError: Redis did not answer.
        """
        if not is_message_id(message_id):
            raise self._not_found(message_id)
        with _asking_redis():
            return await read_receipt(self.context, self._resources.client, message_id)

    async def wait(self, message_id: MessageId, *, within: float) -> Receipt:
        """The receipt once it is final.

        Raises:
            DeadlineError: it is not final within `within` seconds.
            NotFoundError: no such message in this tenant.
        """
        over_at = self._resources.clock.monotonic() + within
        async with self._listener.watch(message_id) as changed:
            while (left := over_at - self._resources.clock.monotonic()) > 0:
                changed.clear()
                receipt = await self._receipt_if_redis_answers(message_id)
                if receipt is not None and receipt.is_final:
                    return receipt
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left, LOOK_EVERY_SECONDS)):
                        await changed.wait()
        raise DeadlineError(f"message {message_id} has not come to its end within {within:g} s; it goes on")

    async def _receipt_if_redis_answers(self, message_id: MessageId) -> Receipt | None:
        try:
            return await self.receipt(message_id)
        except RedisUnavailableError:
            return None

    async def cancel(self, message_id: MessageId) -> Receipt:
        """Takes a message back: it either wins, or came too late; never both.

        Raises:
            NotFoundError: no such message in this tenant.
            TooLateError: a turn of it had begun, or it had ended.
            RedisUnavailableError: Redis did not answer; cancelling again is safe.
        """
        if not is_message_id(message_id):
            raise self._not_found(message_id)
        with _asking_redis():
            answer = await self._resources.scripts.cancel(self.context, message_id=message_id)
            await agenda.note(self.context, self._resources.client, answer.next_look_ms)
        if not answer.found:
            raise self._not_found(message_id)
        late = sorted({result for _, result in answer.results if result != "cancelled"})
        if late:
            raise TooLateError(f"too late to cancel, it is {', '.join(late)}", where=f"message {message_id!r}")
        return await self.receipt(message_id)

    def _not_found(self, message_id: str) -> NotFoundError:
        return NotFoundError(f"there is no message {message_id!r} in tenant {self.context.tenant!r}")


def _reply_to(given: str | ReplyTo | dict[str, Any] | None) -> dict[str, Any] | None:
    if given is None or isinstance(given, dict):
        return given
    return {"agent": given} if isinstance(given, str) else given.model_dump(exclude_none=True)


@contextmanager
def _asking_redis() -> Iterator[None]:
    try:
        yield
    except REDIS_AWAY as error:
        raise RedisUnavailableError(f"Redis did not answer ({type(error).__name__}): ask again") from error
