"""The audit's second half: each delivery and agent is where it will be found. Pure, over one reading."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from schemas.delivery import State
from schemas.envelope import PRIORITY_OF_RANK
from workers.broker.rules import PARKED_MS, Rules
from workers.mailbox.finding import Finding, Mend
from workers.mailbox.ledgered import Ledgered

RANK_WIDTH = 2_100_000_000_000_000
"""As in lua/ledger.lua."""
_RANKS = {priority.value: priority.rank for priority in PRIORITY_OF_RANK}


def misplaced(ledgered: Ledgered, now_us: int, rules: Rules) -> Iterator[Finding]:
    """Mailboxes, leases, ready marks, later and expiries that disagree with the deliveries."""
    yield from _mailboxes(ledgered)
    yield from _leases(ledgered)
    yield from _parked(ledgered)
    yield from _places(ledgered, now_us, rules)
    yield from _expiries(ledgered)


def _mailboxes(ledgered: Ledgered) -> Iterator[Finding]:
    boxed: defaultdict[str, list[str]] = defaultdict(list)
    for agent, members in ledgered.mailboxes.items():
        for delivery, score in members:
            fields = ledgered.deliveries.get(delivery)
            boxed[delivery].append(agent)
            if fields is None:
                sentence = f"the mailbox of {agent} has {delivery}, of which there is no record"
            elif fields["agent"] != agent or fields["state"] != State.WAITING:
                sentence = f"the mailbox of {agent} has {delivery}, which is {fields['state']} for {fields['agent']}"
            elif int(fields["score"]) != score:
                sentence = f"the mailbox of {agent} has {delivery} at {score}; its record says {fields['score']}"
            else:
                continue
            yield Finding("mailbox", delivery, sentence, Mend.DELIVERY, agent=agent)
    yield from _waiting(ledgered, boxed)


def _waiting(ledgered: Ledgered, boxed: Mapping[str, list[str]]) -> Iterator[Finding]:
    """What waits is in one place: a mailbox, before its time, or set aside."""
    later = {member[2:] for member in ledgered.zset("later") if member.startswith("d:")}
    aside = Counter(delivery for members in ledgered.aside.values() for delivery, _ in members)
    for delivery, fields in ledgered.deliveries.items():
        places = len(boxed.get(delivery, ())) + (delivery in later) + aside[delivery]
        if fields["state"] == State.WAITING and places != 1:
            where = "in no mailbox and not before a time" if not places else f"in {places} places"
            yield Finding("mailbox", delivery, f"delivery {delivery} waits {where}", Mend.DELIVERY)
    for where, deliveries in (("to become ready", later), ("set aside", aside)):
        for delivery in deliveries:
            state = ledgered.deliveries.get(delivery, {}).get("state", "not there")
            if state != State.WAITING:
                yield Finding("later", delivery, f"delivery {delivery} is {state}, and {where}", Mend.DELIVERY)


def _leases(ledgered: Ledgered) -> Iterator[Finding]:
    holders = {agent: value.split("|", 2) for agent, value in ledgered.hash("holders").items()}
    leases = ledgered.zset("leases")
    held = set()
    for agent in {*holders, *leases}:
        token, delivery, *_ = (*holders.get(agent, []), "", "")
        fields = ledgered.deliveries.get(delivery, {})
        fits = (fields.get("state"), fields.get("agent"), fields.get("token")) == (State.RUNNING, agent, token)
        if agent not in holders:
            sentence = f"{agent} is under a lease that nobody holds"
        elif not fits:
            sentence = f"{agent} is held by the turn of {delivery}, which is {fields.get('state', 'not there')}"
        elif agent not in leases:
            sentence = f"{agent} is held by the turn of {delivery} without a lease"
            held.add(delivery)
        else:
            held.add(delivery)
            continue
        if delivery not in ledgered.touched_deliveries:
            yield Finding("lease", agent, sentence, Mend.AGENT)
    for delivery, fields in ledgered.deliveries.items():
        if fields["state"] == State.RUNNING and delivery not in held:
            sentence = f"delivery {delivery} runs, and nobody holds {fields['agent']}"
            yield Finding("lease", delivery, sentence, Mend.DELIVERY)


def _parked(ledgered: Ledgered) -> Iterator[Finding]:
    """Who is parked is held without an end, and nobody else is."""
    if not {"parked", "holds"}.isdisjoint(ledgered.mistyped):
        return
    parked = ledgered.hash("parked")
    held = {who: hold for who, hold in ledgered.hash("holds").items() if hold.endswith("|parked")}
    for agent in {*parked, *held}:
        if agent not in parked:
            sentence = f"{agent} is held as parked, and nobody parked it"
        elif held.get(agent) != f"{PARKED_MS}|parked":
            sentence = f"{agent} is parked, and not held"
        else:
            continue
        yield Finding("parked", agent, sentence, Mend.AGENT)


def _places(ledgered: Ledgered, now_us: int, rules: Rules) -> Iterator[Finding]:
    """Each agent with something in its mailbox is where it will be found: under a lease, ready, or later."""
    holders, later = {**ledgered.hash("holders"), **ledgered.zset("leases")}, ledgered.zset("later")
    places = Counter(agent for members in ledgered.ready.values() for agent, _ in members)
    places.update(member[2:] for member in later if member.startswith("a:"))
    for agent in {*places, *ledgered.mailboxes}:
        box = ledgered.mailboxes.get(agent, [])
        expected = 1 if box and agent not in holders else 0
        if expected and not places[agent]:
            sentence = f"{agent} is stuck: {len(box)} wait, and it is neither ready, nor later, nor under a lease"
            yield Finding("stuck", agent, sentence, Mend.AGENT)
        elif places[agent] != expected:
            sentence = f"{agent} is ready or later in {places[agent]} places, expected {expected}"
            yield Finding("place", agent, sentence, Mend.AGENT)
    for name, members in ledgered.ready.items():
        for agent, arrival in members:
            if why := _why_not_ready(ledgered, name, agent, arrival, now_us, rules):
                yield Finding("place", agent, f"{agent} is ready as {name}, {why}", Mend.AGENT)
    for member, at in later.items():
        box = ledgered.mailboxes.get(member[2:], [])
        if member.startswith("a:") and box:
            expected = max(_due(ledgered, box[0][0]), ledgered.held_until(member[2:]))
            if at > expected:
                sentence = f"{member[2:]} is to become ready at {at}, and could be taken from {expected}"
                yield Finding("place", member[2:], sentence, Mend.AGENT)


def _why_not_ready(  # noqa: PLR0917  # all of it is plain
    ledgered: Ledgered, name: str, agent: str, arrival: int, now_us: int, rules: Rules
) -> str:
    box, now = ledgered.mailboxes.get(agent, []), now_us // 1000
    if name not in _RANKS:
        return "which is no priority"
    fits = [
        delivery
        for delivery, score in box
        if score == _RANKS[name] * RANK_WIDTH + arrival and _due(ledgered, delivery) <= now
    ]
    if len(fits) != 1 or ledgered.held_until(agent) > now:
        return f"by {arrival}, but held or with no such due delivery"
    rank, arrived = divmod(dict(box)[fits[0]], RANK_WIDTH)
    goes_first = box[0][0] == fits[0] or now_us - arrived > rules.aging_ms[rank] * 1000
    return "" if goes_first else f"with {fits[0]}, which is not what it would get"


def _due(ledgered: Ledgered, delivery: str) -> int:
    return int(ledgered.deliveries.get(delivery, {}).get("due") or 0)


def _expiries(ledgered: Ledgered) -> Iterator[Finding]:
    listed = ledgered.zset("expiries")
    for id_ in listed:
        fields = ledgered.deliveries.get(id_)
        if fields is None or State(fields["state"]).is_final:
            state = fields["state"] if fields else "not there"
            yield Finding("expiry", id_, f"delivery {id_} is {state}, and to expire", Mend.DELIVERY)
    for id_, fields in ledgered.deliveries.items():
        message = ledgered.messages.get(id_.rpartition(":")[0], {})
        expires = fields.get("expires_at") or message.get("expires_at", "")
        expected = int(expires) if expires.isdigit() else None
        may_expire = fields["state"] == State.WAITING and fields.get("fate") != "open"
        if may_expire and expected not in {None, listed.get(id_)}:
            sentence = f"delivery {id_} expires at {expected}; listed: {listed.get(id_, 'not at all')}"
            yield Finding("expiry", id_, sentence, Mend.DELIVERY)
