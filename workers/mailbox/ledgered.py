"""Reads a tenant's whole ledger, while work goes on: the operator's reading, for the audit.

Records are read one after the other, everything that names them in one transaction behind. What changed in between
is known from the events of that time, and listed as touched: nobody judges it by this reading.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from redis.asyncio.client import Pipeline

from schemas.context import Context
from schemas.envelope import PRIORITY_OF_RANK
from workers.broker import keys
from workers.broker.client import Client
from workers.broker.keys import TENANT_NAMES, Name

PAGE = 500
ENTRIES = 50
"""Entries of a stream at a time: each may be large."""
STRUCTURE = (
    *("counters", "later", "expiries", "leases", "holders", "holds", "parked"),
    *("messages", "ended", "bulks", "gathers", "tenant", "rung"),
)
"""What is read whole in one transaction, with the mailboxes and ready marks."""

Fields = dict[str, str]


@dataclass(frozen=True, slots=True)
class Letter:
    """What names a dead letter's record."""

    entry_id: str
    message: str
    delivery: str


@dataclass
class Ledgered:
    """What stands in Redis under one tenant's root, decoded."""

    messages: dict[str, Fields] = field(default_factory=dict)
    deliveries: dict[str, Fields] = field(default_factory=dict)
    mailboxes: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    """Each in the order in which it would be taken, aging aside."""
    ready: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    aside: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    """By message: what was set aside while it is paused."""
    snapshots: dict[str, int] = field(default_factory=dict)
    """By message: how many of its recipients are taken down and have no delivery yet."""
    has_all_snapshots: bool = False
    """Whether none was taken while this was read."""
    other: dict[str, Any] = field(default_factory=dict)
    entries: set[str] = field(default_factory=set)
    """The ids of what stands on the stream."""
    letters: list[Letter] = field(default_factory=list)
    strange: dict[str, str] = field(default_factory=dict)
    """Keys that nobody owns: each with a sentence."""
    mistyped: dict[str, str] = field(default_factory=dict)
    """Keys of the wrong type, which are not read: the same."""
    touched_messages: dict[str, str] = field(default_factory=dict)
    """Those to which something happened while this was read, with the state of the last event."""
    touched_deliveries: dict[str, str] = field(default_factory=dict)
    touched_agents: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)
    """Of the touched messages, and those that are expanded, read once more."""

    def zset(self, name: str) -> dict[str, int]:
        """A sorted set by the table's name for it."""
        return dict(self.other.get(name, []))

    def hash(self, name: str) -> Fields:
        """A hash by the table's name for it."""
        return dict(self.other.get(name, {}))

    def states(self) -> dict[str, str]:
        """Each delivery's state."""
        return {id_: fields["state"] for id_, fields in self.deliveries.items()}

    def held_until(self, who: str) -> int:
        """Until when an agent, or `*`, is held; 0: not at all."""
        return int(self.hash("holds").get(who, "0|").partition("|")[0])


async def read(client: Client, context: Context) -> Ledgered:
    """Everything under the tenant's root."""
    names = keys.of(context)
    newest = await client.xrevrange(names.events, count=1) if await _is(client, names.events, "stream") else []
    ledgered = Ledgered()
    found = await _keys(client, names.root, ledgered)
    await _records(client, names.root, found, ledgered)
    await _streams(client, names, found, ledgered)
    await _structure(client, names, found, newest[0][0].decode() if newest else "0", ledgered)
    await _sizes(client, names, ledgered)
    return ledgered


def text(value: Any) -> str:
    """Bytes from Redis, whatever they are."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


async def _is(client: Client, key: str, kind: str) -> bool:
    return text(await client.type(key)) == kind


async def _keys(client: Client, root: str, ledgered: Ledgered) -> dict[str, list[str]]:
    """What there is of each name of the table, by what stands behind its suffix."""
    found: dict[str, list[str]] = {}
    async for page in _pages(client.scan_iter(match=f"{root}*", count=PAGE)):
        shorts = sorted({text(key).removeprefix(root) for key in page})
        async with client.pipeline(transaction=False) as pipe:
            for short in shorts:
                pipe.type(root + short)
            kinds = [text(kind) for kind in await pipe.execute()]
        for short, kind in zip(shorts, kinds, strict=True):
            name, entry = _entry(root + short)
            if entry is None:
                ledgered.strange[short] = f"{root}{short} is in no table"
            elif kind == entry.type:
                found.setdefault(name, []).append(short.removeprefix(entry.suffix))
            elif kind != "none":
                ledgered.mistyped[short] = f"{root}{short} is a {kind}, expected a {entry.type}"
    return {name: sorted(set(ids)) for name, ids in found.items()}


def _entry(key: str) -> tuple[str, Name | None]:
    entry = keys.describe(key)
    return next((name for name, one in TENANT_NAMES.items() if one is entry), ""), entry


async def _records(client: Client, root: str, found: dict[str, list[str]], ledgered: Ledgered) -> None:
    for name, into in (("message", ledgered.messages), ("delivery", ledgered.deliveries)):
        for ids in _batches(found.get(name, [])):
            async with client.pipeline(transaction=False) as pipe:
                for id_ in ids:
                    pipe.hgetall(root + TENANT_NAMES[name].suffix + id_)
                records = await pipe.execute()
            into.update({id_: _hash(one) for id_, one in zip(ids, records, strict=True) if one})


async def _streams(client: Client, names: keys.TenantKeys, found: dict[str, list[str]], ledgered: Ledgered) -> None:
    if "tasks" in found:
        ledgered.entries = {id_ async for id_, _ in _entries(client, names.tasks)}
    if "dead" in found:
        ledgered.letters = [
            Letter(id_, text(fields.get(b"message", b"")), text(fields.get(b"delivery", b"")))
            async for id_, fields in _entries(client, names.dead)
        ]


async def _entries(client: Client, key: str) -> AsyncIterator[tuple[str, dict[bytes, bytes]]]:
    start = "-"
    while page := await client.xrange(key, start, "+", count=ENTRIES):
        for id_, fields in page:
            yield text(id_), fields
        start = f"({text(page[-1][0])}"


async def _structure(
    client: Client, names: keys.TenantKeys, found: dict[str, list[str]], since: str, ledgered: Ledgered
) -> None:
    root = names.root
    snapshots = {*found.get("snapshot", []), *await _members(client, names.bulks, ledgered)}
    async with client.pipeline(transaction=True) as pipe:
        # Whatever was found: what was empty a moment ago may not be now.
        asked = [(name, "") for name in STRUCTURE if name not in ledgered.mistyped]
        ranks = {*found.get("ready", []), *PRIORITY_OF_RANK}
        asked += [
            ("ready", rank) for rank in sorted(ranks) if TENANT_NAMES["ready"].suffix + rank not in ledgered.mistyped
        ]
        asked += [(name, id_) for name in ("mailbox", "aside") for id_ in found.get(name, [])]
        asked += [("snapshot", id_) for id_ in sorted(snapshots) if f"snapshot:{id_}" not in ledgered.mistyped]
        for name, id_ in asked:
            _ask(pipe, TENANT_NAMES[name].type, root + TENANT_NAMES[name].suffix + id_)
        if names.events.removeprefix(root) not in ledgered.mistyped:
            asked.append(("events", ""))
            pipe.xrange(names.events, f"({since}", "+")
        answers = await pipe.execute()
    for (name, id_), answer in zip(asked, answers, strict=True):
        if name == "mailbox":
            ledgered.mailboxes[id_] = _zset(answer)
        elif name == "ready":
            ledgered.ready[id_] = _zset(answer)
        elif name == "aside":
            ledgered.aside[id_] = _zset(answer)
        elif name == "snapshot":
            ledgered.snapshots[id_] = answer
        elif name == "events":
            _touch(ledgered, answer)
        else:
            ledgered.other[name] = _hash(answer) if TENANT_NAMES[name].type == "hash" else _zset(answer)
    ledgered.has_all_snapshots = snapshots >= set(ledgered.zset("bulks"))
    ledgered.snapshots = {message: left for message, left in ledgered.snapshots.items() if left}
    ledgered.mailboxes = {agent: box for agent, box in ledgered.mailboxes.items() if box}
    ledgered.ready = {rank: members for rank, members in ledgered.ready.items() if members}


def _touch(ledgered: Ledgered, events: Iterable[tuple[bytes, dict[bytes, bytes]]]) -> None:
    for _, fields in events:
        said = {text(name): text(value) for name, value in fields.items()}
        message, delivery, state = said.get("message", ""), said.get("delivery", ""), said.get("state", "")
        ledgered.touched_messages[message] = "" if delivery else state
        if delivery:
            ledgered.touched_deliveries[delivery] = state
            ledgered.touched_agents.add(said.get("agent", ""))


async def _sizes(client: Client, names: keys.TenantKeys, ledgered: Ledgered) -> None:
    for ids in _batches([*{*ledgered.touched_messages, *ledgered.snapshots}]):
        async with client.pipeline(transaction=False) as pipe:
            for id_ in ids:
                pipe.hget(names.message(id_), "size")
            sizes = await pipe.execute()
        ledgered.sizes.update({id_: int(size or 0) for id_, size in zip(ids, sizes, strict=True)})


async def _members(client: Client, key: str, ledgered: Ledgered) -> list[str]:
    return [] if "bulks" in ledgered.mistyped else [text(one) for one in await client.zrange(key, 0, -1)]


def _ask(pipe: Pipeline, kind: str, key: str) -> None:
    if kind == "hash":
        pipe.hgetall(key)
    elif kind == "list":
        pipe.llen(key)
    else:
        pipe.zrange(key, 0, -1, withscores=True)


def _hash(found: dict[bytes, bytes]) -> Fields:
    return {text(name): text(value) for name, value in found.items()}


def _zset(found: Iterable[tuple[bytes, float]]) -> list[tuple[str, int]]:
    return [(text(member), int(score)) for member, score in found]


def _batches(ids: Sequence[str]) -> Iterable[list[str]]:
    rest = iter(ids)
    while batch := list(islice(rest, PAGE)):
        yield batch


async def _pages(found: AsyncIterator[Any]) -> AsyncIterator[list[Any]]:
    page = []
    async for one in found:
        page.append(one)
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page
