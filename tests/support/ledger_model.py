"""The ledger as plain lists and dictionaries: what the scripts should do, said a second time and slowly."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from schemas.delivery import Cause, State
from workers.broker.results import Move, Settlement
from workers.broker.rules import (
    FULL_PAUSE_MS,
    PARKED_MS,
    POOL_OF_RANK,
    RANKS_OF_POOL,
    SUSPECT_PAUSE_MS,
    Pool,
    Rules,
)

WINDOW_MS = int("\n".join(Rules().as_lua()).partition("RATE_WINDOW_MS = ")[2].split("\n")[0])
"""As the scripts have it: a minute, and what a call may take on its way."""
WAITING, RUNNING = State.WAITING, State.RUNNING


@dataclass
class Row:
    """One delivery."""

    id: str
    message: str
    agent: str
    rank: int
    arrival: int
    teams: tuple[str, ...]
    due: int
    parked: bool
    """Not before its time: not even in the mailbox."""
    comes: int = 0
    """That time."""
    aside: bool = False
    """Out of the mailbox until its message is resumed."""
    state: State = WAITING
    cause: str = ""
    token: int = 0
    settled: int = 0
    attempt: int = 0
    epoch: int = 1
    fate_open: bool = False
    crashes: int = 0
    listed: bool = False
    """Whether anybody looks for its expiry."""
    redriven_until: int | None = None
    has_letter: bool = False


@dataclass
class Message:
    """One message; `state` as in the ledger: accepted, expanding, open, ended, cancelled."""

    digest: str
    size: int
    entry: str
    state: str = "accepted"
    expires_at: int | None = None
    rows: list[Row] = field(default_factory=list)
    letters: int = 0
    purge_at: int | None = None
    paused: bool = False
    many: bool = False
    """Whether it keeps count of its ends."""
    bulk: bool = False
    """Whether its recipients were taken down."""
    move: Move | None = None
    first_arrival: int = 0
    unmade: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    """The recipients that have no delivery yet."""
    unmade_cancelled: bool = False
    gather_want: int | None = None
    gather_at: int | None = None
    """When somebody looks for its replies."""
    gathered: tuple[str, ...] | None = None

    @property
    def is_at_its_end(self) -> bool:
        return not self.unmade and all(row.state.is_final for row in self.rows)


@dataclass
class Limits:
    per_minute: int = 1000
    team_per_minute: int = 1000
    agent_per_minute: int = 1000
    in_flight: int = 64
    max_bytes: int = 10**9
    suspended: bool = False


@dataclass
class Lease:
    row: Row
    token: int
    ends: int


@dataclass
class Place:
    """Where an agent stands: ready under a rank and arrival, or later at a time."""

    rank: int
    arrival: int
    later: int = 0


@dataclass
class LedgerModel:
    """One tenant. Every method is a script; `now_us` is moved by hand."""

    now_us: int
    limits: Limits = field(default_factory=Limits)
    rules: Rules = field(default_factory=Rules)
    messages: dict[str, Message] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    holds: dict[str, int] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    rates: dict[str, list[int]] = field(default_factory=dict)
    rung: set[Pool] = field(default_factory=set)
    quarantined: set[str] = field(default_factory=set)
    failures: dict[str, int] = field(default_factory=dict)
    fence: int = 0
    arrival: int = 0

    @property
    def now(self) -> int:
        return self.now_us // 1000

    def rows(self) -> Iterator[Row]:
        for message in self.messages.values():
            yield from message.rows

    def row(self, id_: str) -> Row | None:
        return next((row for row in self.rows() if row.id == id_), None)

    @property
    def bytes(self) -> int:
        return sum(
            message.size for message in self.messages.values() if message.state in {"accepted", "expanding", "open"}
        )

    # Scripts

    def publish(self, id_: str, digest: str, size: int) -> str:
        if id_ in self.messages:
            return "duplicate" if self.messages[id_].digest == digest else "conflict"
        if self.limits.suspended:
            return "suspended"
        if self.bytes + size > self.limits.max_bytes:
            return "overloaded"
        self.messages[id_] = Message(digest, size, "")
        return "accepted"

    def dispatch(self, move: Move) -> str:
        if why_not := self._admit(move, "open"):
            return why_not
        self._expand(self.messages[move.message_id], len(move.recipients))
        return "moved"

    def snapshot(self, move: Move) -> str:
        if why_not := self._admit(move, "expanding"):
            return why_not
        self.messages[move.message_id].many = self.messages[move.message_id].bulk = True
        return "taken"

    def _admit(self, move: Move, state: str) -> str:
        if self.is_held(">"):
            return "full"
        known = self.messages.get(move.message_id)
        if known is not None and (known.entry != move.entry_id or known.state != "accepted"):
            if known.digest != move.digest:
                return "conflict"
            return "expanding" if known.entry == move.entry_id and known.state == "expanding" else "duplicate"
        if known is None and self.bytes > 0 and self.bytes + move.size > self.limits.max_bytes:
            self.holds[">"] = self.now + FULL_PAUSE_MS
            return "full"
        message = Message(move.digest, move.size, move.entry_id, state, move.expires_at_ms, move=move)
        message.paused = known is not None and known.paused
        message.unmade = list(move.recipients)
        message.many = len(move.recipients) > 1 or move.gather_want is not None
        message.first_arrival = max(self.now_us, self.arrival + 1)
        self.arrival = message.first_arrival + len(move.recipients) - 1
        if move.gather_want is not None:
            message.gather_want = min(move.gather_want, len(move.recipients))
            message.gather_at = int(move.entry_id.partition("-")[0]) + (move.gather_within_ms or 0)
        self.messages[move.message_id] = message
        return ""

    def expand(self, id_: str, limit: int) -> tuple[str, int]:
        """The status, and how many recipients have no delivery yet."""
        message = self.messages.get(id_)
        if message is None or message.state != "expanding":
            return "gone", 0
        self._expand(message, limit)
        if not message.unmade and message.state == "expanding":
            message.state = "open"
        return "moved", len(message.unmade)

    def _expand(self, message: Message, limit: int) -> None:
        move = message.move
        assert move is not None
        for _ in range(min(limit, len(message.unmade))):
            agent, teams = message.unmade.pop(0)
            number = len(message.rows) + 1
            id_, arrival = f"{move.message_id}:{number}", message.first_arrival + number - 1
            due = move.not_before_ms or 0
            parked = due > self.now
            row = Row(id_, move.message_id, agent, move.rank, arrival, teams, due if parked else 0, parked)
            row.comes = row.due
            row.listed = move.expires_at_ms is not None
            row.cause = Cause.NOT_BEFORE if parked else ""
            message.rows.append(row)
            if message.unmade_cancelled:
                self._end(row, State.CANCELLED, Cause.BY_SENDER)
            if not parked or message.unmade_cancelled:
                self._place(agent)

    def pause(self, id_: str) -> str:
        message = self.messages.get(id_)
        if message is None:
            return "not_found"
        if message.state not in {"accepted", "expanding", "open"}:
            return "ended"
        already, message.paused = message.paused, True
        return "already" if already else "paused"

    def resume(self, id_: str) -> str:
        message = self.messages.get(id_)
        if message is None:
            return "not_found"
        if not message.paused:
            return "already"
        message.paused = False
        for row in message.rows:
            if row.aside:
                row.aside, row.parked, row.comes = False, True, self.now
        return "resumed"

    def gather(self, id_: str, deliveries: tuple[str, ...]) -> str:
        message = self.messages.get(id_)
        if message is None or message.gather_at is None:
            return "gone"
        if message.gather_at > self.now:
            return "early"
        message.gather_at, message.gathered = None, deliveries
        return "gathered"

    def accept(self, id_: str, digest: str, size: int) -> bool:
        """A message that the ledger itself puts on the stream; False where its id is known."""
        if id_ in self.messages:
            return False
        self.messages[id_] = Message(digest, size, "")
        return True

    def take(self, pool: Pool, limit: int, lease_ms: int) -> tuple[list[tuple[str, int, int, int, bool]], bool]:
        """Rows of (delivery, token, attempt, epoch, fate was open), and whether there is more."""
        self._overdue()
        taken: list[tuple[str, int, int, int, bool]] = []
        more = False
        while (
            not self.limits.suspended
            and not self.is_held("*")
            and len(self.leases) < self.limits.in_flight
            and (agent := self._next_agent(pool)) is not None
        ):
            if len(taken) == limit:
                more = True
                break
            opens = self._opens_at("tenant", self.limits.per_minute)
            if opens:
                self.holds["*"] = opens
                break
            row = self._try(agent)
            if row is not None:
                taken.append((row.id, *self._lease(row, lease_ms)))
        if not more:
            self.rung.discard(pool)
        return taken, more

    def renew(self, lease_ms: int, pairs: list[tuple[str, int]]) -> set[str]:
        lost = set()
        for agent, token in pairs:
            lease = self.leases.get(agent)
            if lease is not None and lease.token == token:
                lease.ends = self.now + lease_ms
            else:
                lost.add(agent)
        return lost

    def record_run(self, agent: str, token: int) -> bool:
        return agent in self.leases and self.leases[agent].token == token

    def settle(self, one: Settlement) -> str:
        row = self.row(one.delivery_id)
        if row is None or row.token != one.token:
            return "lost"
        if row.settled == one.token:
            return "already"
        if row.state.is_final:
            return "lost"
        if row.state is RUNNING:
            del self.leases[row.agent]
        row.settled = one.token
        row.aside = row.parked = False
        self._close(row, one)
        before = set(self.quarantined)
        if one.hold == "parked":
            self.park(row.agent)
        elif one.hold:
            who = row.agent if one.hold == "agent" else "*"
            self.holds[who] = max(self.holds.get(who, 0), self.now + one.hold_ms)
        expires_at = self.expires_of(row)
        if one.state is not WAITING:
            self._end(row, one.state, one.cause)
        elif expires_at is not None and expires_at <= self.now and not one.fate_open:
            self._end(row, State.EXPIRED, Cause.TTL)
        else:
            row.state, row.cause = WAITING, one.cause
            row.due = self.now + one.due_in_ms if one.due_in_ms else 0
            row.listed = expires_at is not None
        self._place(row.agent)
        return "settled" if self.quarantined == before else "parked"

    def _close(self, row: Row, one: Settlement) -> None:
        if one.refund:
            row.attempt -= 1
        if one.state is State.DELIVERED:
            row.fate_open = False
        elif not one.fate_open:
            row.fate_open = False
            row.epoch += 1

    def park(self, agent: str) -> str:
        if agent in self.quarantined:
            return "already"
        self.quarantined.add(agent)
        self.holds[agent] = PARKED_MS
        self._place(agent)
        return "parked"

    def unpark(self, agent: str) -> str:
        if agent not in self.quarantined:
            return "not_parked"
        self.quarantined.discard(agent)
        del self.holds[agent]
        self.failures.pop(agent, None)
        self._place(agent)
        return "unparked"

    def cancel(self, id_: str, first: int = 1) -> list[tuple[str, str]] | None:
        message = self.messages.get(id_)
        if message is None:
            return None
        if message.state == "accepted":
            message.state = "cancelled"
            message.purge_at = self.now + self.rules.kept_ms
            return [(id_, "cancelled")]
        message.unmade_cancelled = message.state == "expanding"
        answer = []
        for row in message.rows[first - 1 :]:
            if row.state is WAITING and not row.fate_open:
                self._end(row, State.CANCELLED, Cause.BY_SENDER)
                self._place(row.agent)
                answer.append((row.id, "cancelled"))
            else:
                answer.append((row.id, "running" if row.state is WAITING else str(row.state)))
        made = len(message.rows)
        unmade = range(made + 1, made + len(message.unmade) + 1)
        answer += [(f"{id_}:{number}", "cancelled") for number in unmade if number >= first]
        return answer or [(id_, message.state)]

    def sweep(self) -> set[str]:
        """The gatherings to close."""
        self._overdue()
        for id_, message in list(self.messages.items()):
            if message.purge_at is not None and message.purge_at <= self.now:
                del self.messages[id_]
        return {id_ for id_, message in self.messages.items() if (message.gather_at or self.now + 1) <= self.now}

    def ring(self) -> set[Pool]:
        """The pools to ring: something to do, room to do it, and nobody on the way."""
        if self.limits.suspended or self.is_held("*") or len(self.leases) >= self.limits.in_flight:
            return set()
        pools = {POOL_OF_RANK[place.rank] for place in self.places.values() if not place.later}
        rings = pools - self.rung
        self.rung |= pools
        return rings

    def redrive(self, id_: str, ttl: int | None) -> str:
        row = self.row(id_)
        if row is None or not row.has_letter:
            return "gone"
        message = self.messages[row.message]
        until = self.expires_of(row) if ttl is None else self.now + ttl
        if until is not None and until <= self.now:
            return "expired"
        if message.state == "ended" and self.bytes and self.bytes + message.size > self.limits.max_bytes:
            return "full"
        self.arrival = max(self.now_us, self.arrival + 1)
        row.state, row.cause, row.arrival, row.due = WAITING, Cause.REDRIVEN, self.arrival, 0
        row.parked, row.aside, row.has_letter, row.fate_open = False, False, False, False
        row.attempt, row.crashes, row.epoch = 0, 0, row.epoch + 1
        row.redriven_until = until if ttl is not None else row.redriven_until
        row.listed = until is not None
        if message.state == "ended":
            message.state, message.purge_at = "open", None
        message.letters -= 1
        self._place(row.agent)
        return "redriven"

    def discard(self, id_: str) -> str:
        row = self.row(id_)
        if row is None or not row.has_letter:
            return "gone"
        message, row.has_letter = self.messages[row.message], False
        message.letters -= 1
        if message.state == "ended" and not message.letters:
            message.purge_at = self.now + self.rules.kept_ms
        return "discarded"

    # What they are made of

    def expires_of(self, row: Row) -> int | None:
        return self.messages[row.message].expires_at if row.redriven_until is None else row.redriven_until

    def mailbox(self, agent: str) -> list[Row]:
        rows = [row for row in self.rows() if row.agent == agent and self._is_boxed(row)]
        return sorted(rows, key=lambda row: (row.rank, row.arrival))

    @staticmethod
    def _is_boxed(row: Row) -> bool:
        return row.state is WAITING and not row.parked and not row.aside

    def is_held(self, who: str) -> bool:
        return self.holds.get(who, 0) > self.now

    def choose(self, agent: str) -> Row | None:
        box = self.mailbox(agent)
        if not box:
            return None
        firsts = [next((row for row in box if row.rank == rank), None) for rank in range(box[0].rank + 1, 4)]
        overdue = [row for row in firsts if row is not None and self._is_overdue(row.rank, row.arrival)]
        due = [row for row in overdue if row.due <= self.now]
        return min(due, key=lambda row: row.arrival, default=box[0])

    def _is_overdue(self, rank: int, arrival: int) -> bool:
        return self.now_us - arrival > self.rules.aging_ms[rank] * 1000

    def _place(self, agent: str) -> None:
        row = None if agent in self.leases else self.choose(agent)
        if row is None:
            self.places.pop(agent, None)
            return
        at = max(row.due, self.holds.get(agent, 0))
        self.places[agent] = Place(row.rank, row.arrival, at if at > self.now else 0)

    def _overdue(self) -> None:
        self._promote()
        self._reap()
        self._expire()

    def _promote(self) -> None:
        for row in self.rows():
            if row.parked and row.state is WAITING and row.comes <= self.now:
                row.parked, row.due, row.cause = False, 0, ""
                self._place(row.agent)
        for agent, place in list(self.places.items()):
            if place.later and place.later <= self.now:
                self._place(agent)

    def _reap(self) -> None:
        for agent, lease in list(self.leases.items()):
            if lease.ends > self.now:
                continue
            del self.leases[agent]
            lease.row.crashes += 1
            if lease.row.crashes >= self.rules.max_crashes:
                self._end(lease.row, State.DEAD, Cause.POISON)
            else:
                lease.row.state, lease.row.cause, lease.row.due = WAITING, Cause.RECOVERED, 0
            self._place(agent)

    def _expire(self) -> None:
        for row in list(self.rows()):
            expires_at = self.expires_of(row)
            if row.listed and expires_at is not None and expires_at <= self.now:
                row.listed = False
                if row.state is WAITING and not row.fate_open:
                    self._end(row, State.EXPIRED, Cause.TTL)
                    self._place(row.agent)

    def _next_agent(self, pool: Pool) -> str | None:
        first: str | None = None
        overdue: tuple[int, str] | None = None
        for rank in RANKS_OF_POOL[pool]:
            here = [(p.arrival, agent) for agent, p in self.places.items() if p.rank == rank and not p.later]
            if here:
                arrival, agent = min(here)
                first = first or agent
                if rank and self._is_overdue(rank, arrival) and (overdue is None or arrival < overdue[0]):
                    overdue = (arrival, agent)
        return overdue[1] if overdue else first

    def _opens_at(self, scope: str, allowed: int) -> int:
        charges = self.rates.get(scope, [])
        if len(charges) < allowed:
            return 0
        opens = charges[-allowed] + WINDOW_MS + 1
        return opens if opens > self.now else 0

    def _try(self, agent: str) -> Row | None:
        row = self.choose(agent)
        if row is None or row.due > self.now or self.is_held(agent):
            self._place(agent)
            return None
        expires_at = self.expires_of(row)
        if expires_at is not None and expires_at <= self.now and not row.fate_open:
            self._end(row, State.EXPIRED, Cause.TTL)
            self._place(agent)
            return None
        if self.messages[row.message].paused and not row.fate_open:
            row.aside, row.cause = True, Cause.PAUSED
            self._place(agent)
            return None
        if self._is_suspect(row) and any(self._is_suspect(lease.row) for lease in self.leases.values()):
            self.holds[agent] = self.now + SUSPECT_PAUSE_MS
            row.cause = Cause.SUSPECT
            self._place(agent)
            return None
        opens = [self._opens_at(f"agent:{agent}", self.limits.agent_per_minute)]
        opens += [self._opens_at(f"team:{team}", self.limits.team_per_minute) for team in row.teams]
        if max(opens):
            self.holds[agent] = max(opens)
            row.cause = Cause.RATE_AGENT if opens[0] == max(opens) else Cause.RATE_TEAM
            self._place(agent)
            return None
        return row

    def _is_suspect(self, row: Row) -> bool:
        return row.crashes >= max(1, self.rules.max_crashes - 1)

    def _lease(self, row: Row, lease_ms: int) -> tuple[int, int, int, bool]:
        self.fence = max(self.fence + 1, self.now_us)
        was_open, row.fate_open = row.fate_open, True
        row.state, row.cause, row.due, row.token = RUNNING, "", 0, self.fence
        row.attempt += 1
        self.leases[row.agent] = Lease(row, self.fence, self.now + lease_ms)
        for scope in ("tenant", f"agent:{row.agent}", *(f"team:{team}" for team in row.teams)):
            self.rates.setdefault(scope, []).append(self.now)
        self._place(row.agent)
        return self.fence, row.attempt, row.epoch, was_open

    def _end(self, row: Row, state: State, cause: Cause) -> None:
        row.state, row.cause, row.listed, row.due, row.aside = state, cause, False, 0, False
        message = self.messages[row.message]
        if state is State.DELIVERED:
            self.failures.pop(row.agent, None)
        elif state is State.DEAD:
            self.failures[row.agent] = self.failures.get(row.agent, 0) + 1
            if self.rules.park_after and self.failures[row.agent] >= self.rules.park_after:
                self.park(row.agent)
        if state in {State.DEAD, State.UNKNOWN, State.REFUSED}:
            message.letters += 1
            row.has_letter = True
        self._look_for_replies(message, state)
        if message.is_at_its_end:
            message.state = "ended"
            message.purge_at = None if message.letters else self.now + self.rules.kept_ms

    def _look_for_replies(self, message: Message, state: State) -> None:
        """Enough have come, or nobody can reply any more."""
        if message.gather_want is None or message.gathered is not None:
            return
        replies = sum(row.state is State.DELIVERED for row in message.rows)
        enough = state is State.DELIVERED and replies >= message.gather_want
        if enough or message.is_at_its_end:
            message.gather_at = self.now
