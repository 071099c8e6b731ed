"""The Python client, bound to one tenant: send, ask, gather, receipt, cancel, ack, and `bulk` for messages to many.

async with TenantClient.open("redis://localhost:6379/0", tenant="acme") as acme:
    receipt = await acme.ask("researcher", "What is new in memory management?", within=60)
    print(receipt.reply)
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any, Literal, Self

from opentelemetry.trace import SpanKind

from schemas.address import AgentAddress, ReplyTo, SelectorAddress, TeamAddress
from schemas.context import Context, Role
from schemas.envelope import Envelope, Gather, Kind, OnUnknown, Priority
from schemas.gathered import Gathered, gathered
from schemas.ids import MessageId, TenantId, is_message_id, is_reader_name
from schemas.receipt import Receipt
from workers import settings as settings_module
from workers.bus import door
from workers.bus.admission import Admission
from workers.bus.bulk import Bulk, asking_redis, not_found
from workers.bus.events import Listener
from workers.bus.publish import Publisher
from workers.bus.receipts import read_receipt
from workers.errors import DeadlineError, NotAcceptedError, RedisUnavailableError, RefusedError, TooLateError
from workers.ids import new_message_id
from workers.resources import Resources, build
from workers.tasks import within
from workers.telemetry import to_envelope

LOOK_EVERY_SECONDS = 5.0
"""Who waits looks at the receipt this often, whether or not an event came."""
MANY, PAUSE_SECONDS = 10, 0.25
"""Who waits for a message to more recipients looks no more often."""
GATHER_MARGIN_SECONDS = 10.0
"""How much longer than its deadline a gathering is waited for."""
ACKED_AT_ONCE = 500
PUBLISH_PAUSES_SECONDS = (0.1, 0.3, 1.0)
"""A publish that Redis did not confirm is tried again under the same id: it cannot double."""
PUBLISH_WITHIN_SECONDS = 4.0
"""No try begins later than this: the producer knows best what then."""
PUBLISH_DEADLINE_SECONDS = 5.0
"""And none goes on later than this, however many steps of it a slow Redis makes wait."""


class TenantClient:
    """Everything a producer of one tenant can do."""

    def __init__(self, context: Context, resources: Resources) -> None:
        self.context = context
        self._resources = resources
        admission = Admission(resources.client, resources.clock)
        self._publisher = Publisher(resources.scripts, admission)
        self._listener = Listener(context, resources.client, resources.clock)
        self.bulk = Bulk(context, resources)
        """Messages to many: look, pause, resume, take back."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, redis_url: str, *, tenant: TenantId, principal: str = "python", operator: bool = False
    ) -> AsyncIterator[Self]:
        """A client on its own connections, closed at the end of the block.

        Only an `operator` may send to every agent of the tenant at once.
        """
        settings = settings_module.load(redis_url=redis_url)
        resources = build(settings, "client")
        roles = {Role.PRODUCER, Role.OPERATOR} if operator else {Role.PRODUCER}
        client = cls(Context(tenant=tenant, principal=principal, roles=frozenset(roles)), resources)
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
        to: str | AgentAddress | TeamAddress | SelectorAddress,
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
        gather: Gather | None = None,
    ) -> Receipt:
        """Publishes one message: to an agent, by name or id, to a team, or to all whom a selector finds.

        `expires_in` is in seconds. A selector that finds more agents than its `at_most` is refused by the dispatcher.
        `reply_to` is an agent, by name or id, or any address that can take a reply: a team, a stream, a queue.

        Returns a receipt in state `accepted`: from here on the message comes to exactly one recorded end.

        Raises:
            Refusal: a field is wrong; nothing was stored.
            ConflictError, NotFoundError, SuspendedError, OverloadedError, NotAcceptedError: see Publisher.publish.
        """
        document: dict[str, Any] = {
            "id": id,
            "kind": kind,
            "to": {"agent": to} if isinstance(to, str) else to.model_dump(exclude_defaults=True, mode="json"),
            "content": content,
            "priority": priority,
            "ttl": expires_in,
            "not_before": not_before,
            "reply_to": _reply_to(reply_to),
            "conversation": conversation,
            "sender": sender or self.context.principal,
            "on_unknown": on_unknown,
            "metadata": metadata or {},
            "gather": gather.model_dump() if gather else None,
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
            try:
                return await within(PUBLISH_DEADLINE_SECONDS, self._publish(envelope))
            except TimeoutError:
                raise NotAcceptedError(
                    f"Redis did not confirm message {envelope.id} within {PUBLISH_DEADLINE_SECONDS:g} s: "
                    "publish it again under the same id"
                ) from None

    async def _publish(self, envelope: Envelope) -> Receipt:
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

    async def ask(self, agent: str, content: str, *, within: float, **options: Any) -> Receipt:
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
            raise not_found(self.context, message_id)
        with asking_redis():
            return await read_receipt(self.context, self._resources.client, message_id)

    async def wait(self, message_id: MessageId, *, within: float) -> Receipt:
        """The receipt once it is final.

        Raises:
            DeadlineError: it is not final within `within` seconds.
            NotFoundError: no such message in this tenant.
        """
        return await self._wait(message_id, within, until=lambda receipt: receipt.is_final)

    async def _wait(self, message_id: MessageId, within: float, *, until: Callable[[Receipt], bool]) -> Receipt:
        over_at = self._resources.clock.monotonic() + within
        async with self._listener.watch(message_id) as changed:
            while (left := over_at - self._resources.clock.monotonic()) > 0:
                changed.clear()
                receipt = await self._receipt_if_redis_answers(message_id)
                if receipt is not None and until(receipt):
                    return receipt
                if receipt is not None and receipt.recipients > MANY:
                    # Each of its deliveries is an event.
                    await self._resources.clock.sleep(PAUSE_SECONDS)
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left, LOOK_EVERY_SECONDS)):
                        await changed.wait()
        raise DeadlineError(f"message {message_id} has not come to its end within {within:g} s; it goes on")

    async def _receipt_if_redis_answers(self, message_id: MessageId) -> Receipt | None:
        try:
            return await self.receipt(message_id)
        except RedisUnavailableError:
            return None

    async def gather(
        self,
        team: str | TeamAddress,
        content: str,
        *,
        within: float,
        want: int | Literal["all"] = "all",
        **options: Any,
    ) -> Gathered:
        """Sends to a team and waits for the replies as one: all, or `want`, or those that come within `within` seconds.

        The message expires with the wait. What comes later is in the message's receipt.

        Raises:
            RefusedError: the team cannot be sent to: there is none, or nobody is in it.
            DeadlineError: it was not gathered in time: no dispatcher runs, or Redis is away.
            and what `send` raises.
        """
        address = TeamAddress(team=team) if isinstance(team, str) else team
        sent = await self.send(
            address, content, **{"expires_in": within, **options, "gather": Gather(want=want, within=within)}
        )
        receipt = await self._wait(sent.message_id, within + GATHER_MARGIN_SECONDS, until=_is_gathered)
        if not receipt.recipients:
            raise RefusedError(receipt.detail or receipt.state, where=f"message {sent.message_id!r}")
        return gathered(receipt, receipt.recipients if want == "all" else want)

    async def cancel(self, message_id: MessageId) -> Receipt:
        """Takes a message back: it either wins, or came too late; never both.

        Of a message to many, what has not begun is taken back; `bulk.cancel` tells how many that were.

        Raises:
            NotFoundError: no such message in this tenant.
            TooLateError: every turn of it had begun, or it had ended.
            RedisUnavailableError: Redis did not answer; cancelling again is safe.
        """
        taken_back = await self.bulk.cancel(message_id)
        if not taken_back.cancelled:
            late = ", ".join(sorted(taken_back.late))
            raise TooLateError(f"too late to cancel, it is {late}", where=f"message {message_id!r}")
        return await self.receipt(message_id)

    async def ack(self, *message_ids: MessageId, reader: str | None = None) -> dict[MessageId, str]:
        """Marks messages that have come to their end as read by `reader`, which is this client's principal unless
        named. For a reader outside, that keeps no place of its own; it changes nothing about when they are purged.

        Returns what each is: `acked` now, `already` before, `not_over` (nothing was changed) or `not_found`. One that
        is redriven is unread again.

        Raises:
            RefusedError: that cannot be a reader's name.
            RedisUnavailableError: Redis did not answer; asking again is safe.
        """
        name = reader if reader is not None else self.context.principal
        if not is_reader_name(name):
            raise RefusedError("expected letters, digits and . _ : @ -, at most 100", where=f"reader {name!r}")
        results = dict.fromkeys(message_ids, "not_found")
        known = [id_ for id_ in results if is_message_id(id_)]
        with asking_redis():
            for first in range(0, len(known), ACKED_AT_ONCE):
                some = known[first : first + ACKED_AT_ONCE]
                answers = await self._resources.scripts.ack(self.context, reader=name, message_ids=some)
                results.update(zip(some, answers, strict=True))
        return results


def _is_gathered(receipt: Receipt) -> bool:
    return receipt.gathered_at_ms is not None or (receipt.is_final and not receipt.recipients)


def _reply_to(given: str | ReplyTo | dict[str, Any] | None) -> dict[str, Any] | None:
    if given is None or isinstance(given, dict):
        return given
    return {"agent": given} if isinstance(given, str) else given.model_dump(exclude_none=True)
