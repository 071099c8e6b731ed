"""Every name in Redis: its template, type, owner and lifetime. No other file spells one.

Everything of a tenant carries the hash tag `{tenant}`, so that one script may change several of its keys at
once, on one Redis or on a Redis Cluster. Scripts build names from `lua_names()`, generated from this table.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from schemas.context import Context
from schemas.envelope import PRIORITY_OF_RANK
from schemas.ids import AgentId, DeliveryId, MessageId, TeamName, TenantId

PREFIX = "postroom:"


@dataclass(frozen=True, slots=True)
class Name:
    """One entry of the table."""

    suffix: str
    """Behind the tenant's root; with a trailing colon where an id follows."""
    type: str
    """What `TYPE` answers: string, hash, list, set, zset, stream."""
    owner: str
    """The script or module that writes it."""
    lifetime: str
    meaning: str


TENANT_NAMES: dict[str, Name] = {
    "tenant": Name("tenant", "hash", "register, amend, leave", "the tenant's", "limits, suspended, created_at_ms, incarnation; `leaving` alone once it is gone"),
    "tasks": Name("tasks", "stream", "producers", "the tenant's", "what producers publish; entries leave by dispatch or refuse"),
    "message": Name("message:", "hash", "publish, dispatch", "until purged", "content and acceptance, once for all recipients"),
    "delivery": Name("delivery:", "hash", "dispatch, take, settle", "until purged", "the ledger entry of one delivery"),
    "mailbox": Name("mailbox:", "zset", "dispatch, settle", "while something waits", "waiting deliveries of an agent, by priority, then arrival"),
    "ready": Name("ready:", "zset", "any script", "while somebody is ready", "agents that may be taken, by the arrival of their next delivery"),
    "later": Name("later", "zset", "any script", "while something is due", "`a:<agent>` and `d:<delivery>` by the time they become ready"),
    "expiries": Name("expiries", "zset", "dispatch", "while something may expire", "deliveries by expiry"),
    "leases": Name("leases", "zset", "take, renew, settle", "while a turn runs", "agents by the end of their lease"),
    "holders": Name("holders", "hash", "take, settle", "while a turn runs", "agent to `token|delivery|owner`"),
    "holds": Name("holds", "hash", "take, settle", "while held", "agent, or `*` for the tenant, `>` for its stream, `~` for word of the server, to `until_ms|cause`"),
    "rate": Name("rate:", "list", "take", "one window", "times of the last turns, newest first"),
    "rung": Name("rung", "hash", "any script", "while a drain is due", "pool to `job id|since_ms`"),
    "counters": Name("counters", "hash", "any script", "the tenant's", "arrival, fence, bytes, waiting and one count per end"),
    "events": Name("events", "stream", "any script", "capped by age", "every change of state"),
    "dead": Name("dead", "stream", "refuse, dispatch, settle, sweep", "until redriven or discarded", "dead letters"),
    "messages": Name("messages", "zset", "publish, dispatch", "until purged", "message ids by acceptance"),
    "ended": Name("ended", "zset", "settle", "until purged", "ended message ids by the time they are purged"),
    "agents": Name("agents", "hash", "directory", "refreshed", "agent id to its record; `*` to when the list was read"),
    "teams": Name("teams", "hash", "directory.teams", "the tenant's", "team name to its record"),
    "snapshot": Name("snapshot:", "list", "snapshot, expand", "until every delivery is made", "recipients of a bulk send, in order: `agent|team,team`"),
    "bulks": Name("bulks", "zset", "snapshot", "until purged", "ids of bulk sends by acceptance"),
    "aside": Name("aside:", "zset", "take, resume", "while the bulk send is paused", "its deliveries whose turn came, by the time they were due"),
    "gathers": Name("gathers", "zset", "dispatch, gather", "until gathered", "messages whose replies are gathered, by the time to look"),
    "parked": Name("parked", "hash", "park, settle, take, sweep", "until unparked", "agent to `at_ms|by|why`"),
    "suspect": Name("suspect", "string", "take", "the tenant's", "the delivery taken last of those that may have taken workers down"),
    "failures": Name("failures", "hash", "settle, take, sweep", "until it answers or is unparked", "agent to how many of its messages in a row ended dead, none delivered in between"),
    "out": Name("out:", "stream", "any script", "capped by age", "replies and other ends, for readers that are no agents"),
    "callback": Name("callback:", "list", "any script", "until popped, or nothing came for as long as receipts are kept", "the same, each for one reader"),
    "dispatcher": Name("dispatcher", "string", "hold_stream", "lease", "the dispatcher that owns this stream"),
}  # fmt: skip

GLOBAL_NAMES: dict[str, Name] = {
    "tenants": Name("tenants", "set", "directory.tenants", "for ever", "registered tenants"),
    "dispatchers": Name("dispatchers", "zset", "dispatch.ownership", "while they live", "dispatchers by the time they are presumed dead"),
    "leaving": Name("leaving", "zset", "directory.removal", "until removed", "tenants that are being deleted, by when that began"),
    "control": Name("control", "stream", "directory.tenants", "capped at 1,000", "registrations and changes, to wake dispatchers"),
    "agenda": Name("agenda", "zset", "mailbox.ring", "while somebody waits", "tenants by the time somebody should look; a hint, never the truth"),
    "process": Name("process:", "string", "service", "15 s", "a process's heartbeat"),
    "queue": Name("arq:", "zset", "arq", "while a drain is due", "arq's queue of a pool; wake-ups only"),
    "bell": Name("bell:", "channel", "mailbox.ring", "none", "wakes the workers of a pool"),
}  # fmt: skip


class TenantKeys:
    """The names of one tenant."""

    __slots__ = ("root",)

    def __init__(self, tenant: TenantId) -> None:
        self.root = f"{PREFIX}{{{tenant}}}:"
        """Never stored under: it names the slot, and scripts build the rest from it."""

    def _name(self, name: str, id_: str = "") -> str:
        return f"{self.root}{TENANT_NAMES[name].suffix}{id_}"

    @property
    def tenant(self) -> str:
        return self._name("tenant")

    @property
    def tasks(self) -> str:
        return self._name("tasks")

    def message(self, message_id: MessageId) -> str:
        return self._name("message", message_id)

    def delivery(self, delivery_id: DeliveryId) -> str:
        return self._name("delivery", delivery_id)

    def mailbox(self, agent: AgentId) -> str:
        return self._name("mailbox", agent)

    def ready(self, rank: int) -> str:
        return self._name("ready", PRIORITY_OF_RANK[rank])

    @property
    def later(self) -> str:
        return self._name("later")

    @property
    def leases(self) -> str:
        return self._name("leases")

    @property
    def holders(self) -> str:
        return self._name("holders")

    @property
    def rung(self) -> str:
        return self._name("rung")

    @property
    def parked(self) -> str:
        return self._name("parked")

    @property
    def failures(self) -> str:
        return self._name("failures")

    @property
    def holds(self) -> str:
        return self._name("holds")

    @property
    def counters(self) -> str:
        return self._name("counters")

    @property
    def events(self) -> str:
        return self._name("events")

    @property
    def dead(self) -> str:
        return self._name("dead")

    def out(self, stream: TeamName) -> str:
        return self._name("out", stream)

    def callback(self, queue: TeamName) -> str:
        return self._name("callback", queue)

    @property
    def messages(self) -> str:
        return self._name("messages")

    @property
    def bulks(self) -> str:
        return self._name("bulks")

    @property
    def agents(self) -> str:
        return self._name("agents")

    def rate(self, scope: str) -> str:
        return self._name("rate", scope)

    @property
    def teams(self) -> str:
        return self._name("teams")

    @property
    def dispatcher(self) -> str:
        return self._name("dispatcher")


def of(context: Context) -> TenantKeys:
    """The names of the context's tenant."""
    return TenantKeys(context.tenant)


def family(context: Context, name: str) -> str:
    """What the names of one kind begin with, where an id follows."""
    return of(context).root + TENANT_NAMES[name].suffix


def tenants() -> str:
    """The set of registered tenants."""
    return PREFIX + GLOBAL_NAMES["tenants"].suffix


def leaving() -> str:
    """The sorted set of tenants that are being deleted, by when that was asked for."""
    return PREFIX + GLOBAL_NAMES["leaving"].suffix


def control() -> str:
    """The stream that wakes dispatchers when a tenant is registered or changed."""
    return PREFIX + GLOBAL_NAMES["control"].suffix


def dispatchers() -> str:
    """The sorted set of live dispatchers."""
    return PREFIX + GLOBAL_NAMES["dispatchers"].suffix


def agenda() -> str:
    """The sorted set of tenants by the time somebody should look at them."""
    return PREFIX + GLOBAL_NAMES["agenda"].suffix


def process(process_id: str = "") -> str:
    """A process's heartbeat; without an id, the prefix of them all."""
    return PREFIX + GLOBAL_NAMES["process"].suffix + process_id


def queue(pool: str) -> str:
    """Arq's queue of a pool."""
    return PREFIX + GLOBAL_NAMES["queue"].suffix + pool


def bell(pool: str) -> str:
    """The channel that wakes the workers of a pool."""
    return PREFIX + GLOBAL_NAMES["bell"].suffix + pool


def describe(key: str) -> Name | None:
    """The table's entry for a concrete key, or None where nobody owns it."""
    if not key.startswith(PREFIX):
        return None
    rest = key[len(PREFIX) :]
    table = GLOBAL_NAMES
    if rest.startswith("{"):
        _, _, rest = rest.partition("}:")
        table = TENANT_NAMES
    return next((name for name in table.values() if _matches(name, rest)), None)


def _matches(name: Name, rest: str) -> bool:
    return rest.startswith(name.suffix) and rest != name.suffix if name.suffix.endswith(":") else rest == name.suffix


def lua_names() -> Iterator[str]:
    """The table as Lua, for the head of every script."""
    yield "local NAMES = {"
    for key, name in TENANT_NAMES.items():
        yield f"  {key} = '{name.suffix}',"
    yield "}"
    ranks = ", ".join(f"'{priority}'" for priority in PRIORITY_OF_RANK)
    yield f"local RANKS = {{{ranks}}}"
