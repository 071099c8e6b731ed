"""Reads a tenant's whole ledger and says what does not add up. Empty: every accepted message is in one state."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio.client import Pipeline

from schemas.context import Context
from schemas.delivery import State
from schemas.envelope import PRIORITY_OF_RANK
from tests.support.time import ScriptTime
from workers.broker import keys
from workers.broker.client import Client
from workers.broker.rules import POOL_OF_RANK, Rules

RANK_WIDTH = 2_100_000_000_000_000
WITH_A_LETTER = {State.DEAD, State.UNKNOWN, State.REFUSED}

Fields = dict[str, str]


@dataclass
class Ledgered:
    """What stands in Redis under one tenant's root, decoded."""

    messages: dict[str, Fields] = field(default_factory=dict)
    deliveries: dict[str, Fields] = field(default_factory=dict)
    mailboxes: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    """Each in the order in which it would be taken, aging aside."""
    ready: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    other: dict[str, Any] = field(default_factory=dict)

    def zset(self, name: str) -> dict[str, int]:
        return dict(self.other.get(name, []))

    def hash(self, name: str) -> Fields:
        return dict(self.other.get(name, {}))

    def stream(self, name: str) -> list[tuple[str, dict[str, bytes]]]:
        return list(self.other.get(name, []))

    def states(self) -> dict[str, str]:
        return {id_: fields["state"] for id_, fields in self.deliveries.items()}

    def held_until(self, who: str) -> int:
        return int(self.hash("holds").get(who, "0|").partition("|")[0])

    def unclaimed(self, now_ms: int) -> set[str]:
        """The pools that could take something now and were not rung."""
        tenant = self.hash("tenant")
        if tenant["suspended"] == "1" or self.held_until("*") > now_ms:
            return set()
        if len(self.zset("leases")) >= int(tenant["in_flight"]):
            return set()
        pools = {POOL_OF_RANK[PRIORITY_OF_RANK.index(_priority(name))] for name in self.ready}
        return {str(pool) for pool in pools} - set(self.hash("rung"))


def _priority(name: str) -> Any:
    return next(priority for priority in PRIORITY_OF_RANK if priority == name)


def _text(value: Any) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _decode(kind: str, value: Any) -> Any:
    if kind == "hash":
        return {_text(name): _text(one) for name, one in value.items()}
    if kind == "zset":
        return [(_text(member), int(score)) for member, score in value]
    if kind == "stream":
        return [(_text(id_), {_text(name): one for name, one in fields.items()}) for id_, fields in value]
    return value


def _ask(pipe: Pipeline, kind: str, key: str) -> None:
    if kind == "hash":
        pipe.hgetall(key)
    elif kind == "zset":
        pipe.zrange(key, 0, -1, withscores=True)
    elif kind == "stream":
        pipe.xrange(key)
    elif kind == "list":
        pipe.lrange(key, 0, -1)
    elif kind == "set":
        pipe.smembers(key)
    else:
        pipe.get(key)


async def unknown_keys(client: Client) -> list[str]:
    """Keys that nobody owns, or whose type is not what the table says."""
    names = sorted(_text(key) for key in await client.keys("*"))
    pipe = client.pipeline(transaction=False)
    for name in names:
        pipe.type(name)
    found = []
    for name, kind in zip(names, await pipe.execute(), strict=True):
        entry = keys.describe(name)
        if ScriptTime.owns(name):
            continue
        if entry is None:
            found.append(f"{name} is in no table")
        elif entry.type != _text(kind):
            found.append(f"{name} is a {_text(kind)}, expected a {entry.type}")
    return found


async def read(client: Client, context: Context) -> Ledgered:
    """Everything under the tenant's root."""
    root = keys.of(context).root
    names = sorted(key for key in map(_text, await client.keys("*")) if key.startswith(root))
    pipe = client.pipeline(transaction=False)
    kinds = []
    for name in names:
        entry = keys.describe(name)
        assert entry is not None, f"{name} is in no table"
        kinds.append(entry.type)
        _ask(pipe, entry.type, name)
    ledgered = Ledgered()
    for name, kind, value in zip(names, kinds, await pipe.execute(), strict=True):
        short, found = name.removeprefix(root), _decode(kind, value)
        family, colon, id_ = short.partition(":")
        if colon and family == "message":
            ledgered.messages[id_] = found
        elif colon and family == "delivery":
            ledgered.deliveries[id_] = found
        elif colon and family == "mailbox":
            ledgered.mailboxes[id_] = found
        elif colon and family == "ready":
            ledgered.ready[id_] = found
        else:
            ledgered.other[short] = found
    return ledgered


async def audit(client: Client, context: Context, now_us: int, rules: Rules | None = None) -> Ledgered:
    """Reads the ledger and fails with every sentence that is wrong about it."""
    ledgered = await read(client, context)
    problems = [
        *await unknown_keys(client),
        *_messages(ledgered),
        *_counters(ledgered),
        *_mailboxes(ledgered),
        *_leases(ledgered),
        *_places(ledgered, now_us, rules or Rules()),
        *_expiries(ledgered),
        *_letters(ledgered),
        *_events(ledgered),
    ]
    assert not problems, "\n".join(problems)
    return ledgered


def _messages(ledgered: Ledgered) -> list[str]:
    found = []
    entries = {id_ for id_, _ in ledgered.stream("tasks")}
    owners: dict[str, list[str]] = {id_: [] for id_ in ledgered.messages}
    for delivery in ledgered.deliveries:
        message = delivery.rpartition(":")[0]
        if message not in owners:
            found.append(f"delivery {delivery} has no message")
        owners.setdefault(message, []).append(delivery)
    for id_, fields in ledgered.messages.items():
        state, mine = fields["state"], owners[id_]
        still = [one for one in mine if not State(ledgered.deliveries[one]["state"]).is_final]
        if (state == "accepted") != (fields.get("entry") in entries):
            found.append(f"message {id_} is {state}; on the stream: {fields.get('entry') in entries}")
        if len(mine) != int(fields.get("deliveries", 0)):
            found.append(f"message {id_} has {len(mine)} deliveries, its record says {fields.get('deliveries')}")
        if state in {"open", "ended"} and len(still) != int(fields["open"]):
            found.append(f"message {id_} has {len(still)} open deliveries, its record says {fields['open']}")
        if (state == "open") != bool(still):
            found.append(f"message {id_} is {state} with {len(still)} open deliveries")
    if set(ledgered.zset("messages")) != set(ledgered.messages):
        found.append(f"messages lists {sorted(ledgered.zset('messages'))}, found {sorted(ledgered.messages)}")
    purgeable = {
        id_
        for id_, fields in ledgered.messages.items()
        if fields["state"] not in {"accepted", "open"} and "letters" not in fields
    }
    if set(ledgered.zset("ended")) != purgeable:
        found.append(f"ended lists {sorted(ledgered.zset('ended'))}, expected {sorted(purgeable)}")
    return found


def _counters(ledgered: Ledgered) -> list[str]:
    counters = {name: int(value) for name, value in ledgered.hash("counters").items()}
    states = Counter(ledgered.states().values())
    states.update(fields["state"] for fields in ledgered.messages.values() if fields["state"] not in {"open", "ended"})
    found = [
        f"counter {name} is {counters.get(name, 0)}, found {states[name]}"
        for name in ("accepted", "waiting", "running")
        if counters.get(name, 0) != states[name]
    ]
    # What has ended is counted for ever, and purged in time.
    found += [
        f"counter {state} is {counters.get(state, 0)}, found {states[state]}"
        for state in State
        if state.is_final and counters.get(state, 0) < states[state]
    ]
    size = sum(int(fields["size"]) for fields in ledgered.messages.values() if fields["state"] in {"accepted", "open"})
    if counters.get("bytes", 0) != size:
        found.append(f"counter bytes is {counters.get('bytes', 0)}, found {size}")
    return found


def _mailboxes(ledgered: Ledgered) -> list[str]:
    found = []
    boxed: dict[str, str] = {}
    for agent, members in ledgered.mailboxes.items():
        for delivery, score in members:
            fields = ledgered.deliveries.get(delivery, {})
            if delivery in boxed:
                found.append(f"{delivery} is in two mailboxes")
            boxed[delivery] = agent
            if fields.get("agent") != agent or int(fields.get("score", 0)) != score:
                found.append(f"{delivery} is in the mailbox of {agent} at {score}, its record says {fields}")
    parked = {member[2:] for member in ledgered.zset("later") if member.startswith("d:")}
    waiting = {id_ for id_, state in ledgered.states().items() if state == "waiting"}
    if set(boxed) | parked != waiting or set(boxed) & parked:
        found.append(f"waiting {sorted(waiting)}, in mailboxes {sorted(boxed)}, not before {sorted(parked)}")
    return found


def _leases(ledgered: Ledgered) -> list[str]:
    found = []
    holders = {agent: value.split("|", 2) for agent, value in ledgered.hash("holders").items()}
    running = {id_: fields for id_, fields in ledgered.deliveries.items() if fields["state"] == "running"}
    if set(holders) != set(ledgered.zset("leases")):
        found.append(f"leases {sorted(ledgered.zset('leases'))}, holders {sorted(holders)}")
    held = {delivery: (agent, token) for agent, (token, delivery, _) in holders.items()}
    told = {id_: (fields["agent"], fields["token"]) for id_, fields in running.items()}
    if held != told:
        found.append(f"holders hold {held}, running are {told}")
    return found


def _places(ledgered: Ledgered, now_us: int, rules: Rules) -> list[str]:
    """Each agent with something in its mailbox is where it will be found: under a lease, ready, or later."""
    found = []
    now = now_us // 1000
    holders, later = ledgered.hash("holders"), ledgered.zset("later")
    places = Counter(agent for members in ledgered.ready.values() for agent, _ in members)
    places.update(member[2:] for member in later if member.startswith("a:"))
    for agent in {*places, *ledgered.mailboxes}:
        box = ledgered.mailboxes.get(agent, [])
        expected = 1 if box and agent not in holders else 0
        if places[agent] != expected:
            found.append(f"{agent} stands in {places[agent]} places, expected {expected}")
    for name, members in ledgered.ready.items():
        for agent, arrival in members:
            fits = [
                delivery
                for delivery, score in ledgered.mailboxes.get(agent, [])
                if score == _priority(name).rank * RANK_WIDTH + arrival and _due(ledgered, delivery) <= now
            ]
            if len(fits) != 1 or ledgered.held_until(agent) > now:
                found.append(f"{agent} is ready as {name} by {arrival}, held or with no such due delivery")
            elif not _goes_first(ledgered, agent, fits[0], now_us, rules):
                found.append(f"{agent} is ready with {fits[0]}, which is not what it would get")
    for member, at in later.items():
        if member.startswith("a:") and ledgered.mailboxes.get(member[2:]):
            first = ledgered.mailboxes[member[2:]][0][0]
            expected = max(_due(ledgered, first), ledgered.held_until(member[2:]))
            if at > expected:
                found.append(f"{member} stands at {at}, later than {expected}, when it could be taken")
    return found


def _goes_first(ledgered: Ledgered, agent: str, delivery: str, now_us: int, rules: Rules) -> bool:
    box = ledgered.mailboxes[agent]
    if box[0][0] == delivery:
        return True
    rank, arrival = divmod(dict(box)[delivery], RANK_WIDTH)
    return now_us - arrival > rules.aging_ms[rank] * 1000


def _due(ledgered: Ledgered, delivery: str) -> int:
    return int(ledgered.deliveries[delivery].get("due", 0))


def _expiries(ledgered: Ledgered) -> list[str]:
    listed = ledgered.zset("expiries")
    found = [f"{id_} has ended and may still expire" for id_ in listed if _is_final(ledgered, id_)]
    for id_, fields in ledgered.deliveries.items():
        expires = ledgered.messages[id_.rpartition(":")[0]].get("expires_at", "")
        ends = fields["state"] == "waiting" and fields.get("fate") != "open" and expires != ""
        if ends and listed.get(id_) != int(expires):
            found.append(f"{id_} expires at {expires}, listed: {listed.get(id_)}")
    return found


def _is_final(ledgered: Ledgered, delivery: str) -> bool:
    return State(ledgered.deliveries[delivery]["state"]).is_final if delivery in ledgered.deliveries else True


def _letters(ledgered: Ledgered) -> list[str]:
    letters = Counter(_text(fields["delivery"]) or _text(fields["message"]) for _, fields in ledgered.stream("dead"))
    expected = Counter(id_ for id_, state in ledgered.states().items() if state in WITH_A_LETTER)
    expected.update(id_ for id_, fields in ledgered.messages.items() if fields["state"] in WITH_A_LETTER)
    found = [] if letters == expected else [f"dead letters of {dict(letters)}, expected {dict(expected)}"]
    by_message = Counter(_text(fields["message"]) for _, fields in ledgered.stream("dead"))
    return found + [
        f"message {id_} has {by_message[id_]} dead letters, its record says {fields.get('letters', 0)}"
        for id_, fields in ledgered.messages.items()
        if by_message[id_] != int(fields.get("letters", 0))
    ]


def _events(ledgered: Ledgered) -> list[str]:
    """The last event of each delivery is the state that it is in."""
    last = {
        _text(fields["delivery"]): _text(fields["state"])
        for _, fields in ledgered.stream("events")
        if fields["delivery"]
    }
    return [
        f"{id_} is {state}, its last event says {last[id_]}"
        for id_, state in ledgered.states().items()
        if last.get(id_, state) != state
    ]
