"""The product's audit for tests: one look at a ledger that stands still, and what only a test may ask for."""

from schemas.context import Context
from schemas.envelope import PRIORITY_OF_RANK
from tests.support.time import ScriptTime
from workers.broker import keys
from workers.broker.client import Client
from workers.broker.rules import POOL_OF_RANK, Rules
from workers.mailbox import ledgered as reading
from workers.mailbox.audit import judge
from workers.mailbox.ledgered import Ledgered, text


async def audit(client: Client, context: Context, now_us: int, rules: Rules | None = None) -> Ledgered:
    """Reads the ledger and fails with every sentence that is wrong about it."""
    ledgered = await reading.read(client, context)
    assert not ledgered.touched_messages, "a test's audit reads what stands still"
    problems = [
        *await unknown_keys(client),
        *(finding.sentence for finding in judge(ledgered, now_us, rules or Rules())),
        *await _events(client, context, ledgered),
    ]
    assert not problems, "\n".join(problems)
    return ledgered


async def unknown_keys(client: Client) -> list[str]:
    """Keys of no tenant that nobody owns, or whose type is not what the table says."""
    names = sorted(text(key) for key in await client.keys("*"))
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
        elif entry.type != text(kind):
            found.append(f"{name} is a {text(kind)}, expected a {entry.type}")
    return found


def unclaimed(ledgered: Ledgered, now_ms: int) -> set[str]:
    """The pools that could take something now and were not rung."""
    tenant = ledgered.hash("tenant")
    if tenant["suspended"] == "1" or ledgered.held_until("*") > now_ms:
        return set()
    if len(ledgered.zset("leases")) >= int(tenant["in_flight"]):
        return set()
    ranks = [priority.rank for priority in PRIORITY_OF_RANK if priority.value in ledgered.ready]
    return {str(POOL_OF_RANK[rank]) for rank in ranks} - set(ledgered.hash("rung"))


async def _events(client: Client, context: Context, ledgered: Ledgered) -> list[str]:
    """The last event of each delivery is the state that it is in."""
    last = {
        text(fields[b"delivery"]): text(fields[b"state"])
        for _, fields in await client.xrange(keys.of(context).events)
        if fields[b"delivery"]
    }
    return [
        f"{id_} is {state}, its last event says {last[id_]}"
        for id_, state in ledgered.states().items()
        if last.get(id_, state) != state
    ]
