"""The accounting after a fault: by the ledger, its events, and what the sandbox wrote down of every turn."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from schemas.delivery import Cause, State
from schemas.event import Event
from tests.chaos.load import Load
from tests.chaos.rig import Rig
from tests.support.key_check import unknown_keys
from workers.broker import keys
from workers.bus.events import parse_event
from workers.clock import SystemClock
from workers.mailbox.audit import audit
from workers.mailbox.ledgered import read

_OTID = re.compile(r":([A-Za-z0-9._-]+:\d+):(agent-[0-9a-f-]{36}):\d+$")
_NO_EFFECT = {"failed", "cancelled", "orphaned"}
"""A turn that ended so may be had again: the server itself said that it came to nothing."""


@dataclass
class Turns:
    """What the sandbox saw of one delivery."""

    requests: list[int] = field(default_factory=list)
    """When each request for a turn came."""
    begun: dict[str, int] = field(default_factory=dict)
    """Run to when it began, in order."""
    ended: dict[str, str] = field(default_factory=dict)

    @property
    def doubled(self) -> int:
        """Turns past the first that was not reported as failed."""
        return max(0, sum(self.ended.get(run) not in _NO_EFFECT for run in self.begun) - 1)


@dataclass(frozen=True)
class Strike:
    """One blow: from when to when by Redis' clock, and what it struck."""

    began_ms: int
    ended_ms: int
    what: str = "turns"
    """`turns`: those of a process that died; `stream`: what was not yet in a mailbox; `outage`: all that was in flight
    in it."""


@dataclass
class Account:
    """What became of a load."""

    accepted: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    ended_twice: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    extra_calls: int = 0
    disorder: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """Leases, keys of nobody, findings of the audit."""
    recovery_ms: list[int] = field(default_factory=list)
    turns: dict[str, Turns] = field(default_factory=dict)
    events: dict[str, list[Event]] = field(default_factory=dict)


def turns_of(lines: Iterable[str]) -> dict[str, Turns]:
    """By delivery, from the lines of the turn log."""
    found: defaultdict[str, Turns] = defaultdict(Turns)
    for line in lines:
        entry = json.loads(line)
        match = _OTID.search(entry.get("otid") or "")
        if match is None:
            continue
        turns = found[match[1]]
        if entry["event"] == "request":
            turns.requests.append(entry["at"])
        elif entry["event"] == "begun":
            turns.begun[entry["run"]] = entry["at"]
        else:
            turns.ended[entry["run"]] = entry["status"]
    return dict(found)


async def events_of(rig: Rig, prefix: str) -> dict[str, list[Event]]:
    """By message, in order."""
    found: defaultdict[str, list[Event]] = defaultdict(list)
    for context in rig.contexts():
        for entry_id, fields in await rig.client.xrange(keys.of(context).events):
            if fields[b"message"].startswith(f"{prefix}-".encode()):
                event = parse_event(entry_id, fields)
                found[event.message_id].append(event)
    return dict(found)


async def waiting(rig: Rig, load: Load) -> int:
    """How many of the accepted have not come to their end."""
    number = 0
    for context in rig.contexts():
        mine = [id_ for id_, sent in load.accepted.items() if sent.tenant == context.tenant]
        async with rig.client.pipeline(transaction=False) as pipe:
            for id_ in mine:
                pipe.hget(keys.of(context).delivery(f"{id_}:1"), "state")
                pipe.hget(keys.of(context).message(id_), "state")
            states = await pipe.execute()
        number += sum(not _is_over(*pair) for pair in zip(states[::2], states[1::2], strict=True))
    return number


def _is_over(delivery: bytes | None, message: bytes | None) -> bool:
    state = (delivery or message or b"").decode()
    return state in set(State) and State(state).is_final


async def account(rig: Rig, load: Load, strikes: list[Strike]) -> Account:
    """Counts a load that is over."""
    done = Account(accepted=len(load.accepted))
    done.turns = {id_: one for id_, one in turns_of(_lines(rig)).items() if id_.startswith(f"{load.prefix}-")}
    done.events = await events_of(rig, load.prefix)
    for context in rig.contexts():
        ledgered = await read(rig.client, context)
        for id_ in (one for one, sent in load.accepted.items() if sent.tenant == context.tenant):
            fields = ledgered.deliveries.get(f"{id_}:1") or ledgered.messages.get(id_) or {"state": "nowhere"}
            state = fields["state"]
            done.ends[state] += 1
            if state not in set(State) or not State(state).is_final:
                done.lost.append(f"{id_} is {state}")
        done.left += [f"{context.tenant}: {agent} under a lease" for agent in ledgered.zset("leases")]
        done.left += [f"{context.tenant}: {agent} has a holder" for agent in ledgered.hash("holders")]
        done.left += [one.sentence for one in await audit(context, rig.client, SystemClock())]
    done.left += await unknown_keys(rig.client)
    _count(done, load)
    done.disorder = disorder(done, load)
    for strike in strikes:
        done.recovery_ms += recovery(done, load, strike)
    return done


def _lines(rig: Rig) -> list[str]:
    # A line that is being written has no end yet.
    return [line for line in rig.fleet.turn_log.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _count(done: Account, load: Load) -> None:
    for id_ in load.accepted:
        finals = [event for event in done.events.get(id_, ()) if event.delivery_id and event.state.is_final]
        if len(finals) > 1:
            done.ended_twice.append(f"{id_} ended as {', '.join(event.state for event in finals)}")
    for id_, turns in done.turns.items():
        if turns.doubled:
            done.doubled.append(f"{id_} had {len(turns.begun)} turns")
        done.extra_calls += max(0, len(turns.requests) - 1)


def disorder(done: Account, load: Load) -> list[str]:
    """Agents whose messages began in another order than they were published in."""
    begun: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for id_, turns in done.turns.items():
        sent = load.accepted.get(id_.rpartition(":")[0])
        if sent is not None and turns.begun:
            begun[sent.agent].append((min(turns.begun.values()), sent.number))
    found = []
    for agent, pairs in begun.items():
        numbers = [number for _, number in sorted(pairs)]
        if numbers != sorted(numbers):
            found.append(f"{agent} had its messages as {numbers}")
    return found


def recovery(done: Account, load: Load, strike: Strike) -> list[int]:
    """For each message that the blow struck: how long after it (or after the outage) it was in flight again."""
    found = []
    for id_ in load.accepted:
        story = [event for event in done.events.get(id_, ()) if event.delivery_id]
        before = [event for event in story if event.at_ms <= strike.began_ms]
        after = [event for event in story if event.at_ms > strike.began_ms]
        if strike.what == "stream":
            struck = load.accepted[id_].accepted_at_ms <= strike.began_ms and not before
        elif strike.what == "outage":
            met = [event for event in story if event.at_ms <= strike.ended_ms]
            struck = bool(met) and not met[-1].state.is_final and any(one.state is State.RUNNING for one in met)
        else:
            struck = bool(before) and before[-1].state is State.RUNNING
            struck = struck and bool(after) and after[0].state is State.WAITING
        again = [event.at_ms for event in _in_flight(after) if event.at_ms >= strike.ended_ms]
        if struck and again:
            found.append(again[0] - strike.ended_ms)
    return found


def _in_flight(story: list[Event]) -> list[Event]:
    """Where a message is under way, or over; taken and given back without a call is neither."""
    following: list[Event | None] = [*story[1:], None][: len(story)]
    return [
        event
        for event, after in zip(story, following, strict=True)
        if event.state.is_final
        or (event.state is State.RUNNING and (after is None or after.cause is not Cause.RETURNED))
    ]
