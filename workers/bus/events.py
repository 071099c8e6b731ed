"""Listening: one reader of a tenant's events stream wakes everybody who waits for a message."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from schemas.context import Context
from schemas.delivery import Cause, State
from schemas.event import Event
from schemas.ids import MessageId
from workers.broker import keys
from workers.broker.client import BLOCK_SECONDS, REDIS_AWAY, Client
from workers.clock import Clock
from workers.tasks import end

PAUSE_SECONDS = 0.5
BATCH = 500


class Listener:
    """Reads one tenant's events from the first wait on, until it is closed."""

    def __init__(self, context: Context, client: Client, clock: Clock) -> None:
        self._context = context
        self._client = client
        self._clock = clock
        self._waiting: defaultdict[MessageId, set[asyncio.Event]] = defaultdict(set)
        self._reader: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def watch(self, message_id: MessageId) -> AsyncIterator[asyncio.Event]:
        """An event that is set whenever something happens to the message; look at its receipt then.

        Begin to watch before looking the first time, or a change in between is missed.
        """
        changed = asyncio.Event()
        self._waiting[message_id].add(changed)
        try:
            if self._reader is None:
                self._begin(await self._last_entry())
            yield changed
        finally:
            self._waiting[message_id].discard(changed)
            if not self._waiting[message_id]:
                del self._waiting[message_id]

    def _begin(self, last: str) -> None:
        # Another waiter may have begun while this one asked for the last entry.
        if self._reader is None:
            self._reader = asyncio.create_task(self._read(last), name="events")

    async def close(self) -> None:
        """Stops reading."""
        if self._reader is not None:
            await end(self._reader)
            self._reader = None

    async def _last_entry(self) -> str:
        try:
            newest = await self._client.xrevrange(keys.of(self._context).events, count=1)
        except REDIS_AWAY:
            # Whoever waits looks at the receipt again anyway.
            return "$"
        return newest[0][0].decode() if newest else "0-0"

    async def _read(self, last: str) -> None:
        stream = keys.of(self._context).events
        while True:
            try:
                answer = await self._client.xread({stream: last}, count=BATCH, block=int(BLOCK_SECONDS * 1000))
            except REDIS_AWAY:
                # What was missed shows in the receipts: everybody looks.
                self._wake_all()
                await self._clock.sleep(PAUSE_SECONDS)
                continue
            for _, entries in answer:
                last = entries[-1][0].decode()
                for _, fields in entries:
                    for changed in self._waiting.get(fields.get(b"message", b"").decode(), ()):
                        changed.set()

    def _wake_all(self) -> None:
        for events in self._waiting.values():
            for changed in events:
                changed.set()


def parse_event(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Event:
    """One entry of the events stream."""
    cause = fields[b"cause"].decode()
    return Event(
        at_ms=int(entry_id.split(b"-")[0]),
        message_id=fields[b"message"].decode(),
        delivery_id=fields[b"delivery"].decode() or None,
        agent=fields[b"agent"].decode() or None,
        state=State(fields[b"state"].decode()),
        cause=Cause(cause) if cause else None,
    )
