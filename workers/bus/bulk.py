"""What can be done with a message to many once it is sent: look at it, pause it, resume it, take it back."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from schemas.context import Context
from schemas.delivery import State
from schemas.ids import MessageId, is_message_id
from schemas.receipt import DeliveryReceipt, Receipt
from workers.broker import agenda, keys
from workers.broker.client import REDIS_AWAY
from workers.bus.receipts import read_deliveries, read_receipt
from workers.errors import NotFoundError, RedisUnavailableError, TooLateError
from workers.resources import Resources


@dataclass(frozen=True, slots=True)
class TakenBack:
    """What a cancel came to: how many it won, and in which state the others were when it came too late."""

    cancelled: int
    late: dict[State, int]


@dataclass(frozen=True, slots=True)
class Bulk:
    """One tenant's messages to many."""

    context: Context
    resources: Resources

    async def list(self, *, limit: int = 100) -> list[Receipt]:
        """The newest bulk sends, with their counts and without their deliveries.

        Raises:
            RedisUnavailableError: Redis did not answer.
        """
        client, found = self.resources.client, []
        with asking_redis():
            for member in await client.zrevrange(keys.of(self.context).bulks, 0, limit - 1):
                try:
                    found.append(await read_receipt(self.context, client, member.decode(), most=0))
                except NotFoundError:
                    # Purged between the list and the look.
                    continue
        return found

    async def show(self, message_id: MessageId) -> Receipt:
        """One message with its counts, without its deliveries: cheap, however many there are.

        Raises:
            NotFoundError: no such message in this tenant.
            RedisUnavailableError: Redis did not answer.
        """
        self._check(message_id)
        with asking_redis():
            return await read_receipt(self.context, self.resources.client, message_id, most=0)

    async def deliveries(self, message_id: MessageId) -> AsyncIterator[DeliveryReceipt]:
        """Every delivery that is made by now, in the order of the recipients, read page by page.

        Raises:
            NotFoundError: no such message in this tenant.
            RedisUnavailableError: Redis did not answer.
        """
        self._check(message_id)
        with asking_redis():
            async for one in read_deliveries(self.context, self.resources.client, message_id):
                yield one

    async def pause(self, message_id: MessageId) -> Receipt:
        """No further turn of it begins; what runs comes to its end, and what expires meanwhile expires.

        Raises:
            NotFoundError: no such message in this tenant.
            TooLateError: it has ended.
            RedisUnavailableError: Redis did not answer; pausing again is safe.
        """
        self._check(message_id)
        with asking_redis():
            status = await self.resources.scripts.pause(self.context, message_id=message_id)
        if status == "ended":
            raise TooLateError("has ended: there is nothing to pause", where=f"message {message_id!r}")
        return await self._after(status, message_id)

    async def resume(self, message_id: MessageId) -> Receipt:
        """Lets a paused message go on, each delivery in its old place.

        Raises:
            NotFoundError: no such message in this tenant.
            RedisUnavailableError: Redis did not answer; resuming again is safe.
        """
        self._check(message_id)
        with asking_redis():
            status, look_ms = await self.resources.scripts.resume(self.context, message_id=message_id)
            await agenda.note(self.context, self.resources.client, look_ms)
        return await self._after(status, message_id)

    async def cancel(self, message_id: MessageId) -> TakenBack:
        """Takes back what has not begun. Each delivery either is cancelled or was too late; never both.

        Cut in between, it may be done again: what was cancelled stays so.

        Raises:
            NotFoundError: no such message in this tenant.
            RedisUnavailableError: Redis did not answer; cancelling again is safe.
        """
        self._check(message_id)
        results: Counter[str] = Counter()
        first = 1
        while first:
            with asking_redis():
                answer = await self.resources.scripts.cancel(self.context, message_id=message_id, first=first)
                await agenda.note(self.context, self.resources.client, answer.next_look_ms)
            if not answer.found:
                raise not_found(self.context, message_id)
            results.update(result for _, result in answer.results)
            first = answer.go_on_at
        cancelled = results.pop("cancelled", 0)
        return TakenBack(cancelled, {_state(result): number for result, number in results.items()})

    async def _after(self, status: str, message_id: MessageId) -> Receipt:
        if status == "not_found":
            raise not_found(self.context, message_id)
        return await self.show(message_id)

    def _check(self, message_id: MessageId) -> None:
        if not is_message_id(message_id):
            raise not_found(self.context, message_id)


def not_found(context: Context, message_id: str) -> NotFoundError:
    """Unknown, or another tenant's: the same answer."""
    return NotFoundError(f"there is no message {message_id!r} in tenant {context.tenant!r}")


@contextmanager
def asking_redis() -> Iterator[None]:
    """Around a question: what is not changed by asking again.

    Raises:
        RedisUnavailableError: Redis did not answer.
    """
    try:
        yield
    except REDIS_AWAY as error:
        raise RedisUnavailableError(f"Redis did not answer ({type(error).__name__}): ask again") from error


def _state(result: str) -> State:
    """What a cancel was too late for; a message that never had a delivery says its own end."""
    return State(result) if result in set(State) else State.DELIVERED
