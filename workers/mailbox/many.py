"""The audit's third part: what messages to many keep beside their deliveries. Pure, over one reading."""

from collections import Counter
from collections.abc import Iterator, Sequence

from schemas.delivery import State
from workers.mailbox.finding import Finding, Mend
from workers.mailbox.ledgered import Ledgered

_ENDS = {str(state) for state in State if state.is_final}


def miscounted(ledgered: Ledgered, id_: str, mine: Sequence[str]) -> Iterator[Finding]:
    """What a message to many says of its ends and of those to come, and whether its replies are looked for."""
    fields = ledgered.messages[id_]
    ends = Counter(ledgered.deliveries[one]["state"] for one in mine)
    for state in _ENDS if "many" in fields else ():
        said = fields.get(f"n_{state}", "0")
        if said != str(ends[state]):
            sentence = f"message {id_} has {ends[state]} deliveries that are {state}; its record says {said}"
            yield Finding("message", id_, sentence, Mend.MESSAGE)
    gathering = "gather_want" in fields and "gathered_at" not in fields
    if gathering != (id_ in ledgered.zset("gathers")) and "gathers" not in ledgered.mistyped:
        what = "nobody looks for its replies" if gathering else "its replies are looked for"
        yield Finding("message", id_, f"message {id_}: {what}", Mend.MESSAGE)
    if fields["state"] == "expanding":
        yield from _unmade(ledgered, id_, len(mine))


def _unmade(ledgered: Ledgered, id_: str, made: int) -> Iterator[Finding]:
    """Each recipient has its delivery, or is still taken down."""
    said, total = int(ledgered.messages[id_]["expanded"]), int(ledgered.messages[id_]["deliveries"])
    left = ledgered.snapshots.get(id_, 0)
    if made + left != total:
        sentence = f"message {id_} has {made} deliveries and {left} recipients taken down; its record says {total}"
        yield Finding("snapshot", id_, sentence)
    elif made != said:
        sentence = f"message {id_} has {made} deliveries; its record says {said}"
        yield Finding("message", id_, sentence, Mend.MESSAGE)


def leftover(ledgered: Ledgered) -> Iterator[Finding]:
    """Lists of recipients, and of what was set aside, that nobody will come for."""
    for id_ in ledgered.snapshots:
        state = ledgered.messages.get(id_, {}).get("state", "not there")
        if state != "expanding":
            sentence = f"recipients of message {id_} are taken down, which is {state}"
            yield Finding("snapshot", id_, sentence, Mend.MESSAGE)
    for id_, members in ledgered.aside.items():
        is_paused = "paused" in ledgered.messages.get(id_, {})
        for delivery, _ in members:
            if delivery.rpartition(":")[0] != id_:
                sentence = f"delivery {delivery} is set aside with message {id_}, which is another"
            elif not is_paused:
                sentence = f"delivery {delivery} is set aside, and message {id_} is not paused"
            else:
                continue
            yield Finding("aside", id_, sentence, Mend.MESSAGE)
