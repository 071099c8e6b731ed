"""The audit: every accepted message is in exactly one state, and all that names it agrees. Reads only.

Work goes on meanwhile: what changes while the ledger is read is not judged by that reading, and what is found must
be found again by every later look.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator

from schemas.context import Context
from schemas.delivery import State
from workers.broker.client import Client
from workers.broker.rules import Rules
from workers.clock import Clock
from workers.mailbox.finding import Finding, Mend
from workers.mailbox.ledgered import Fields, Ledgered, read
from workers.mailbox.many import leftover, miscounted
from workers.mailbox.places import misplaced

WITH_A_LETTER = {State.DEAD, State.UNKNOWN, State.REFUSED}
LOOKS = 3
PAUSE_SECONDS = 0.3
_MESSAGE_STATES = {State.ACCEPTED, "expanding", "open", "ended", State.REFUSED, State.CANCELLED}
_ON_THE_STREAM = {State.ACCEPTED, "expanding"}
_ENDS = {str(state) for state in State if state.is_final}


async def audit(
    context: Context, client: Client, clock: Clock, *, rules: Rules | None = None, looks: int = LOOKS
) -> list[Finding]:
    """What does not add up in a tenant's ledger, on every one of so many looks; usually nothing, after one."""
    found: list[Finding] = []
    for look in range(looks):
        if look:
            await clock.sleep(PAUSE_SECONDS)
        ledgered = await read(client, context)
        now_us = await _now_us(client)
        known = {one.key for one in found}
        found = [one for one in judge(ledgered, now_us, rules or Rules()) if not look or one.key in known]
        if not found:
            break
    return found


async def _now_us(client: Client) -> int:
    seconds, micros = await client.time()
    return int(seconds) * 1_000_000 + int(micros)


def judge(ledgered: Ledgered, now_us: int, rules: Rules) -> list[Finding]:
    """What does not add up in one reading."""
    strange = [Finding("key", short, sentence) for short, sentence in ledgered.strange.items()]
    strange += [Finding("type", short, sentence) for short, sentence in ledgered.mistyped.items()]
    broken = [*_broken(ledgered)]
    found = [
        *strange,
        *broken,
        *_messages(ledgered),
        *_lists(ledgered),
        *leftover(ledgered),
        *misplaced(ledgered, now_us, rules),
        *_letters(ledgered),
        *_counters(ledgered),
    ]
    return [one for one in found if not _in_motion(ledgered, one)]


def _in_motion(ledgered: Ledgered, one: Finding) -> bool:
    if one.kind in {"key", "type", "counter"}:
        return False
    touched = {*ledgered.touched_messages, *ledgered.touched_deliveries, *ledgered.touched_agents}
    return one.id in touched or (one.agent != "" and one.kind == "lease" and one.agent in touched)


def _broken(ledgered: Ledgered) -> Iterator[Finding]:
    """Records that cannot be read are named once, and then left out of everything."""
    for id_, fields in [*ledgered.messages.items()]:
        numbers: tuple[str, ...] = (
            ("open", "deliveries", "size") if fields.get("state") in {"expanding", "open", "ended"} else ()
        )
        numbers += ("expanded",) if fields.get("state") == "expanding" else ()
        if why := _unreadable(fields, _MESSAGE_STATES, ("accepted_at", *numbers)):
            yield Finding("record", id_, f"the record of message {id_} {why}")
            del ledgered.messages[id_]
    for id_, fields in [*ledgered.deliveries.items()]:
        if why := _unreadable(fields, set(State), ("score",)) or ("" if fields.get("agent") else "has no agent"):
            yield Finding("record", id_, f"the record of delivery {id_} {why}")
            del ledgered.deliveries[id_]


def _unreadable(fields: Fields, states: set[str] | set[State], numbers: tuple[str, ...]) -> str:
    if fields.get("state") not in states:
        return f"is in state {fields.get('state')!r}"
    return next((f"has {fields.get(one)!r} as {one}" for one in numbers if not fields.get(one, "").isdigit()), "")


def _messages(ledgered: Ledgered) -> Iterator[Finding]:
    owners: defaultdict[str, list[str]] = defaultdict(list)
    for delivery in ledgered.deliveries:
        message = delivery.rpartition(":")[0]
        owners[message].append(delivery)
        if message not in ledgered.messages:
            yield Finding("delivery", delivery, f"delivery {delivery} has no message")
    for id_, fields in ledgered.messages.items():
        state, mine = fields["state"], owners[id_]
        still = sum(not State(ledgered.deliveries[one]["state"]).is_final for one in mine)
        on_the_stream = fields.get("entry") in ledgered.entries
        if (state in _ON_THE_STREAM) != on_the_stream:
            where = "is on the stream" if on_the_stream else "is not on the stream"
            yield Finding("message", id_, f"message {id_} is {state} and {where}")
        total = int(fields.get("deliveries") or 0)
        unmade = total - len(mine) if state == "expanding" else 0
        if len(mine) + unmade != total:
            yield Finding("message", id_, f"message {id_} has {len(mine)} deliveries; its record says {total}")
        elif state in {"expanding", "open", "ended"} and (total == 0 or still + unmade != int(fields["open"])):
            said = fields["open"]
            sentence = f"message {id_} has {still + unmade} open deliveries; its record says {said}"
            yield Finding("message", id_, sentence, Mend.MESSAGE)
        elif (state in {"expanding", "open"}) != bool(still + unmade):
            sentence = f"message {id_} is {state} with {still} open deliveries"
            yield Finding("message", id_, sentence, Mend.MESSAGE)
        yield from miscounted(ledgered, id_, mine)


def _lists(ledgered: Ledgered) -> Iterator[Finding]:
    """The lists of messages: all of them, those that are purged in time, bulk sends, and what is gathered.

    Only while it is expanded does a record say that it is a bulk send's.
    """
    purgeable = {
        id_
        for id_, fields in ledgered.messages.items()
        if fields["state"] not in {*_ON_THE_STREAM, "open"} and "letters" not in fields
    }
    known = set(ledgered.messages)
    expanding = {id_ for id_, fields in ledgered.messages.items() if fields["state"] == "expanding"}
    lists = {
        "messages": known,
        "ended": purgeable,
        "bulks": known & set(ledgered.zset("bulks")) | expanding,
        "gathers": known & set(ledgered.zset("gathers")),
    }
    for name, expected in lists.items():
        if name in ledgered.mistyped:
            continue
        listed = set(ledgered.zset(name))
        for id_ in expected - listed:
            yield Finding("list", id_, f"message {id_} is missing in the list `{name}`", Mend.MESSAGE)
        for id_ in listed - expected:
            why = "must not be" if id_ in ledgered.messages else "has no record and is"
            yield Finding("list", id_, f"message {id_} {why} in the list `{name}`", Mend.MESSAGE)


def _letters(ledgered: Ledgered) -> Iterator[Finding]:
    if "dead" in ledgered.mistyped:
        return
    of_delivery = Counter(letter.delivery for letter in ledgered.letters if letter.delivery)
    of_message = Counter(letter.message for letter in ledgered.letters)
    refused = {letter.message for letter in ledgered.letters if not letter.delivery}
    for id_, number in of_delivery.items():
        state = ledgered.deliveries.get(id_, {}).get("state", "not there")
        if state not in WITH_A_LETTER:
            yield Finding("letter", id_, f"there is a dead letter of delivery {id_}, which is {state}")
        elif number > 1:
            yield Finding("letter", id_, f"there are {number} dead letters of delivery {id_}")
    for id_ in refused - set(ledgered.messages):
        yield Finding("letter", id_, f"there is a dead letter of message {id_}, which is not there")
    yield from _without_letters(ledgered, set(of_delivery) | refused)
    for id_, fields in ledgered.messages.items():
        if of_message[id_] != int(fields.get("letters", 0)):
            said = fields.get("letters", 0)
            yield Finding("letter", id_, f"message {id_} has {of_message[id_]} dead letters; its record says {said}")


def _without_letters(ledgered: Ledgered, of: set[str]) -> Iterator[Finding]:
    records = (("delivery", ledgered.deliveries, WITH_A_LETTER), ("message", ledgered.messages, {State.REFUSED}))
    for what, all_, states in records:
        for id_, fields in all_.items():
            if fields["state"] in states and id_ not in of and "discarded_at" not in fields:
                yield Finding("letter", id_, f"{what} {id_} is {fields['state']} without a dead letter")


def _counters(ledgered: Ledgered) -> Iterator[Finding]:
    """By the states at the end of the reading: the records', and what the events since then say.

    What a bulk send still has to make was counted in the same step as the counters; not where one began meanwhile.
    """
    if not {"counters", "events", "bulks"}.isdisjoint(ledgered.mistyped) or not ledgered.has_all_snapshots:
        return
    counters = ledgered.hash("counters")
    deliveries = {**ledgered.states(), **ledgered.touched_deliveries}
    states = Counter(deliveries.values())
    whole = {id_: fields["state"] for id_, fields in ledgered.messages.items()}
    whole |= {**ledgered.touched_messages, **dict.fromkeys(ledgered.snapshots, "expanding")}
    open_ = {id_.rpartition(":")[0] for id_, state in deliveries.items() if not State(state).is_final}
    size = 0
    for id_, state in whole.items():
        is_open = id_ in open_ or id_ in ledgered.snapshots or state == State.ACCEPTED
        if state not in {"", "open", "ended", "expanding"}:
            states[state] += 1
        if is_open:
            size += ledgered.sizes.get(id_, int(ledgered.messages.get(id_, {}).get("size") or 0))
    states[State.ACCEPTED] += sum(ledgered.snapshots.values())
    found: dict[str, int] = {**{str(state): states[state] for state in State}, "bytes": size}
    found["expanding"] = len(ledgered.snapshots)
    for name, number in found.items():
        said = counters.get(name, "0")
        drift = number - int(said) if said.lstrip("-").isdigit() else number
        # What has ended is counted for ever, and purged in time: there the counter may be more than there is.
        if drift > 0 or (drift < 0 and name not in _ENDS):
            sentence = f"counter {name} is {said}; the ledger has {number}"
            yield Finding("counter", name, sentence, Mend.COUNTER, drift=drift)
