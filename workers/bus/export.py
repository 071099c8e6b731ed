"""A tenant written out, page by page, in memory that does not grow with it. Reads only; promises no snapshot."""

import asyncio
import base64
from collections import Counter
from collections.abc import AsyncIterator, Mapping

from schemas.agent import Agent
from schemas.context import Context
from schemas.delivery import Cause, State
from schemas.event import Event
from schemas.export import (
    AgentLine,
    DeliveryLine,
    End,
    EventLine,
    Header,
    LetterLine,
    Line,
    MessageLine,
    RecordLine,
    StoredLine,
    TenantLine,
)
from schemas.ids import is_agent_id
from schemas.receipt import DeliveryReceipt
from schemas.tenant import Tenant
from workers.broker import keys
from workers.broker.client import Client
from workers.bus import listing
from workers.bus.letters import read_letter_entries
from workers.bus.listing import Listed
from workers.bus.receipts import read_deliveries
from workers.errors import NotFoundError

PAGE = 100
AT_ONCE = 20
"""Messages that are read side by side, each with all of its deliveries."""


class Export:
    """One export of one tenant."""

    def __init__(self, context: Context, client: Client, *, content: bool) -> None:
        self._context = context
        self._client = client
        self._content = content
        self._root = keys.of(context).root

    async def lines(self, tenant: Tenant, *, at_ms: int) -> AsyncIterator[Line]:
        """Every document, the header first, the end with the counts last."""
        counts: Counter[str] = Counter()
        yield Header(tenant=tenant.id, at_ms=at_ms, content=self._content)
        yield TenantLine(tenant=tenant, counters=await listing.counters(self._context, self._client))
        names = keys.of(self._context)
        for part in (
            self._records("team", names.teams),
            self._records("parked", names.parked),
            self._agents(),
            self._messages(),
            self._letters(),
            self._events(),
            self._stream("entry", names.tasks),
            self._replies(),
        ):
            async for line in part:
                counts[line.kind] += 1
                yield line
        yield End(counts=dict(counts))

    async def _records(self, kind: str, name: str) -> AsyncIterator[Line]:
        async for field, record in self._client.hscan_iter(name, count=PAGE):
            text = record.decode(errors="replace")
            yield RecordLine.model_validate({"kind": kind, "name": field.decode(errors="replace"), "record": text})

    async def _agents(self) -> AsyncIterator[Line]:
        async for id_, record in self._client.hscan_iter(keys.of(self._context).agents, count=PAGE):
            if is_agent_id(id_.decode(errors="replace")):
                yield AgentLine(agent=Agent.model_validate_json(record))

    async def _messages(self) -> AsyncIterator[Line]:
        ids: list[str] = []
        async for member, _ in self._client.zscan_iter(keys.of(self._context).messages, count=PAGE):
            ids.append(member.decode())
            if len(ids) >= AT_ONCE:
                async for line in self._read(ids):
                    yield line
                ids = []
        async for line in self._read(ids):
            yield line

    async def _read(self, ids: list[str]) -> AsyncIterator[Line]:
        for line in await asyncio.gather(*(self._one(id_) for id_ in ids)):
            if line is None:
                continue
            yield line
            told = len(line.receipt.deliveries)
            if line.receipt.recipients > told:
                rest = read_deliveries(self._context, self._client, line.receipt.message_id, behind=told)
                async for delivery in rest:
                    yield DeliveryLine(delivery=self._silenced(delivery))

    async def _one(self, message_id: str) -> MessageLine | None:
        try:
            return self._message(await listing.read_message(self._context, self._client, message_id))
        except NotFoundError:
            # Purged between the index and the look.
            return None

    def _message(self, one: Listed) -> MessageLine:
        if self._content:
            return MessageLine(receipt=one.receipt, envelope=one.envelope)
        silent = tuple(self._silenced(each) for each in one.receipt.deliveries)
        return MessageLine(receipt=one.receipt.model_copy(update={"deliveries": silent}), envelope=None)

    def _silenced(self, delivery: DeliveryReceipt) -> DeliveryReceipt:
        return delivery if self._content else delivery.model_copy(update={"reply": None})

    async def _letters(self) -> AsyncIterator[Line]:
        async for letter in read_letter_entries(self._context, self._client):
            raw = base64.b64encode(letter.raw) if letter.raw and self._content else None
            yield LetterLine(letter=letter.model_copy(update={"raw": None}), raw=raw)

    async def _events(self) -> AsyncIterator[Line]:
        async for entry_id, fields in self._entries(keys.of(self._context).events):
            said = {name.decode(): value.decode(errors="replace") for name, value in fields.items()}
            yield EventLine(
                event=Event(
                    at_ms=int(entry_id.partition("-")[0]),
                    message_id=said["message"],
                    delivery_id=said["delivery"] or None,
                    agent=said["agent"] or None,
                    state=State(said["state"]),
                    cause=Cause(said["cause"]) if said["cause"] else None,
                )
            )

    async def _replies(self) -> AsyncIterator[Line]:
        for family in ("out", "callback"):
            pattern = keys.family(self._context, family) + "*"
            async for key in self._client.scan_iter(match=pattern, count=1_000):
                name = key.decode(errors="surrogateescape")
                read = self._stream("reply", name) if family == "out" else self._queue(name)
                async for line in read:
                    yield line

    async def _stream(self, kind: str, name: str) -> AsyncIterator[Line]:
        async for entry_id, fields in self._entries(name):
            yield self._stored(kind, name, entry_id, {k.decode(errors="replace"): v for k, v in fields.items()})

    async def _queue(self, name: str) -> AsyncIterator[Line]:
        start = 0
        while page := await self._client.lrange(name, start, start + PAGE - 1):
            for one in page:
                yield self._stored("reply", name, None, {"message": one})
            start += PAGE

    def _stored(self, kind: str, name: str, entry_id: str | None, fields: Mapping[str, bytes]) -> StoredLine:
        kept = {field: base64.b64encode(value) for field, value in fields.items()} if self._content else {}
        where = name.removeprefix(self._root).encode(errors="replace").decode()
        return StoredLine.model_validate({"kind": kind, "where": where, "id": entry_id, "fields": kept})

    async def _entries(self, name: str) -> AsyncIterator[tuple[str, dict[bytes, bytes]]]:
        start = "-"
        while page := await self._client.xrange(name, start, "+", count=PAGE):
            for entry_id, fields in page:
                yield entry_id.decode(), fields
            start = f"({page[-1][0].decode()}"
