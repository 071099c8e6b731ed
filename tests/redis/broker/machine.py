"""Random interleavings of every script against the plain model, with the audit after each step."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from schemas.delivery import Cause, State, Taken
from schemas.envelope import Priority
from tests.support.key_check import audit, unclaimed
from tests.support.ledger import OWNER, Ledger, agent_id
from tests.support.ledger_model import LedgerModel, Limits, Row
from tests.support.time import ScriptTime
from workers.broker.client import Client
from workers.broker.results import Move, Settlement
from workers.broker.rules import PARKED_MS, Pool, Rules
from workers.mailbox.ledgered import Ledgered
from workers.mailbox.places import RANK_WIDTH

T = TypeVar("T")

AGENTS = tuple(agent_id(number) for number in (1, 2, 3, 4, 5))
FEW = AGENTS[:3]
"""Those that most messages are for, so that they meet."""
TEAMS = {AGENTS[0]: ("red",), AGENTS[1]: ("red", "blue"), AGENTS[3]: ("blue",)}
MESSAGES = tuple(f"m{number}" for number in range(6))
RULES = Rules(aging_ms=(0, 2_000, 20_000, 70_000), kept_ms=150_000, max_crashes=2, park_after=3)
LEASE_MS = 15_000
TIMED = ("later", "leases", "expiries", "ended", "gathers")
GOING = ("accepted", "expanding", "open")
RETURNED = (Cause.BUSY, Cause.BACKOFF, Cause.LOOKING, Cause.RETURNED)
ENDS = (State.DELIVERED, State.DEAD, State.UNKNOWN, State.REFUSED, State.EXPIRED)
OPTIONS = st.fixed_dictionaries(
    {
        "agents": st.one_of(
            st.lists(st.sampled_from(FEW), min_size=1, max_size=2, unique=True),
            st.lists(st.sampled_from(AGENTS), min_size=1, max_size=5, unique=True),
        ),
        "priority": st.sampled_from(Priority),
        "not_before": st.sampled_from((None, None, None, 0, 5_000, -5_000)),
        "expires": st.sampled_from((None, None, 1_000, 30_000, -1)),
        "longer": st.integers(0, 3),
        "gather": st.sampled_from((None, None, None, (1, 5_000), (2, 60_000), (50, 10**7))),
    }
)
HOWS = st.fixed_dictionaries(
    {
        "state": st.sampled_from((State.WAITING, State.WAITING, State.DELIVERED, State.DELIVERED, *ENDS)),
        "cause": st.sampled_from(RETURNED),
        "due_in_ms": st.sampled_from((0, 0, 1_000, 40_000)),
        "hold": st.sampled_from(("", "", "", "", "agent", "tenant", "parked")),
        "hold_ms": st.sampled_from((3_000, 20_000)),
        "refund": st.booleans(),
        "fate_open": st.booleans(),
    }
)


class LedgerMachine(RuleBasedStateMachine):
    """Subclasses say on which Redis."""

    runner: asyncio.Runner
    client: Client

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Taken] = []
        self.moved: list[Move] = []
        self.entries: list[tuple[str, str, str]] = []
        self.refused: dict[str, tuple[str, str]] = {}
        self.letters_seen: list[tuple[str, str, str]] = []
        self.expanding: list[Move] = []
        self.owner, self.owners = OWNER, [OWNER]
        self.seeds = 0
        self.sent = 0
        self.ledgered = Ledgered()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    @initialize(
        in_flight=st.sampled_from((2, 3, 64)),
        per_minute=st.sampled_from((6, 1000)),
        team=st.sampled_from((3, 1000)),
        agent=st.sampled_from((2, 1000)),
        max_bytes=st.sampled_from((40, 10**6, 10**6)),
    )
    def register(self, in_flight: int, per_minute: int, team: int, agent: int, max_bytes: int) -> None:
        limits = Limits(per_minute, team, agent, in_flight, max_bytes)
        self.run(self._register(limits))
        self.model = LedgerModel(self.time.now_us, limits, RULES)

    async def _register(self, limits: Limits) -> None:
        await self.client.flushall()
        self.time = ScriptTime(self.client)
        await self.time.start()
        self.ledger = Ledger(self.client, self.time, rules=RULES)
        self.scripts, self.context = self.ledger.scripts, self.ledger.context
        await self.ledger.register(
            per_minute=limits.per_minute,
            team_per_minute=limits.team_per_minute,
            agent_per_minute=limits.agent_per_minute,
            in_flight=limits.in_flight,
            max_bytes=limits.max_bytes,
        )

    def teardown(self) -> None:
        self.run(self.client.flushall())

    def seed(self) -> str:
        self.seeds += 1
        return f"seed-{self.seeds}"

    @rule(pool=st.sampled_from(Pool))
    def fall_silent(self, pool: Pool) -> None:
        """A worker that takes something and is not heard of again."""
        self.take(pool, 3)
        self.advance(LEASE_MS)
        self.sweep()

    @rule(id_=st.sampled_from(MESSAGES), content=st.sampled_from(("hello", "hello world")))
    def publish(self, id_: str, content: str) -> None:
        expected = self.model.publish(id_, content, len(content))
        assert self.run(self.ledger.publish(id_, content)) == expected
        if expected == "accepted":
            entry = self.run(self.ledger.entry_of(id_))
            self.model.messages[id_].entry = entry
            self.entries.append((entry, id_, content))

    @rule(id_=st.sampled_from(MESSAGES), content=st.sampled_from(("hello", "hello world")))
    def publish_raw(self, id_: str, content: str) -> None:
        self.add_raw(id_, content)

    def add_raw(self, id_: str, content: str) -> None:
        entry = self.run(self.client.xadd(self.ledger.keys.tasks, {"message": content})).decode()
        self.entries.append((entry, id_, content))

    @rule(options=OPTIONS)
    def send(self, options: dict[str, Any]) -> None:
        """A new message: the stream as far as it goes, and this one behind it."""
        self.sent += 1
        self.add_raw(f"n{self.sent}", "hello")
        for _ in range(len(self.entries)):
            self._dispatch(**options)

    @precondition(lambda self: self.entries)
    @rule(options=OPTIONS)
    def dispatch(self, options: dict[str, Any]) -> None:
        self._dispatch(**options)

    def _next_move(
        self,
        *,
        agents: list[str],
        priority: Priority,
        not_before: int | None,
        expires: int | None,
        longer: int,
        gather: tuple[int, int] | None,
    ) -> Move:
        entry, id_, content = self.entries.pop(0)
        return Move(
            entry_id=entry,
            message_id=id_,
            digest=content,
            envelope=content,
            size=len(content) + longer,
            rank=priority.rank,
            not_before_ms=None if not_before is None else self.model.now + not_before,
            expires_at_ms=None if expires is None else self.model.now + expires,
            recipients=tuple((agent, TEAMS.get(agent, ())) for agent in agents),
            gather_want=gather and gather[0],
            gather_within_ms=gather and gather[1],
        )

    def _is_taken_back(self, move: Move) -> bool:
        """Its sender has cancelled it while it stood on the stream."""
        gone = self.model.messages.get(move.message_id)
        return gone is not None and gone.entry == move.entry_id and gone.state == "cancelled"

    def _not_moved(self, move: Move, status: str) -> None:
        if status == "conflict":
            refused = self.run(
                self.scripts.refuse(
                    self.context,
                    owner=self.owner,
                    entry_id=move.entry_id,
                    message_id=f"x{move.entry_id}",
                    cause=Cause.CONFLICT,
                    detail="",
                )
            )
            assert refused == "refused"
            self.refused[f"x{move.entry_id}"] = (move.message_id, move.digest)
        elif status == "full":
            self.entries.insert(0, (move.entry_id, move.message_id, move.digest))

    def _dispatch(self, **options: Any) -> None:
        move = self._next_move(**options)
        seed = self.seed()
        answer = self.run(self.scripts.dispatch(self.context, owner=self.owner, move=move, seed=seed))
        if self._is_taken_back(move):
            assert answer.status == "gone"
            return
        expected = self.model.dispatch(move)
        assert answer.status == expected
        if expected == "moved":
            assert set(answer.pools) == self.model.ring()
            self.moved.append(move)
            self.look(answer.next_look_ms)
        self._not_moved(move, expected)

    @precondition(lambda self: self.entries)
    @rule(options=OPTIONS)
    def snapshot(self, options: dict[str, Any]) -> None:
        self._snapshot(**options)

    def _snapshot(self, **options: Any) -> None:
        move = self._next_move(**options)
        answer = self.run(self.scripts.snapshot(self.context, owner=self.owner, move=move))
        if self._is_taken_back(move):
            assert answer == "gone"
            return
        expected = self.model.snapshot(move)
        assert answer == expected
        if expected == "taken":
            self.expanding.append(move)
        self._not_moved(move, expected)

    @rule(options=OPTIONS, limit=st.integers(0, 3))
    def send_to_many(self, options: dict[str, Any], limit: int) -> None:
        """A new bulk send, begun; the stream before it goes as far as it goes."""
        self.sent += 1
        self.add_raw(f"b{self.sent}", "hello")
        for _ in range(len(self.entries) - 1):
            self._dispatch(**options)
        self._snapshot(**options)
        if limit and self.expanding:
            self._expand(self.expanding[-1], limit)

    @precondition(lambda self: self.expanding)
    @rule(data=st.data(), limit=st.sampled_from((1, 1, 2, 3, 100)))
    def expand(self, data: st.DataObject, limit: int) -> None:
        self._expand(data.draw(st.sampled_from(self.expanding[-4:])), limit)

    def _expand(self, move: Move, limit: int) -> None:
        seed = self.seed()
        answer = self.run(
            self.scripts.expand(
                self.context,
                owner=self.owner,
                entry_id=move.entry_id,
                message_id=move.message_id,
                limit=limit,
                seed=seed,
            )
        )
        assert (answer.status, answer.left) == self.model.expand(move.message_id, limit)
        if answer.status == "moved":
            assert set(answer.pools) == self.model.ring()
            self.look(answer.next_look_ms)

    @precondition(lambda self: self.expanding)
    @rule(data=st.data())
    def snapshot_again(self, data: st.DataObject) -> None:
        """A dispatcher that crashed behind its snapshot; whom it finds now does not matter."""
        move = data.draw(st.sampled_from(self.expanding[-4:]))
        other = replace(move, recipients=((AGENTS[4], ()),))
        answer = self.run(self.scripts.snapshot(self.context, owner=self.owner, move=other))
        message = self.model.messages.get(move.message_id)
        still = message is not None and message.entry == move.entry_id and message.state == "expanding"
        full = still and self.model.is_held(">")
        assert answer == ("full" if full else "expanding" if still else "gone")

    @rule()
    def lose_the_stream(self) -> None:
        """The owner's lease ran out, and another goes on where it stood."""
        self.owner = f"dispatcher-{len(self.owners) + 1}"
        self.owners.append(self.owner)
        self.run(self.client.delete(f"{self.ledger.keys.root}dispatcher"))
        assert self.run(self.scripts.hold_stream(self.context, owner=self.owner, lease_ms=600_000))

    @precondition(lambda self: self.expanding and len(self.owners) > 1)
    @rule(data=st.data())
    def expand_as_the_owner_before(self, data: st.DataObject) -> None:
        move = data.draw(st.sampled_from(self.expanding[-4:]))
        before = self.owners[-2]
        for status in (
            self.run(self.scripts.snapshot(self.context, owner=before, move=move)),
            self.run(self.scripts.dispatch(self.context, owner=before, move=move, seed="")).status,
            self.run(
                self.scripts.expand(
                    self.context,
                    owner=before,
                    entry_id=move.entry_id,
                    message_id=move.message_id,
                    limit=9,
                    seed="",
                )
            ).status,
        ):
            assert status == "lost"

    def _a_message(self, data: st.DataObject) -> str:
        """Rather one of the last, or one that never was."""
        return data.draw(st.sampled_from(["never", *list(self.model.messages)[-5:]]))

    @rule(data=st.data(), look=st.booleans())
    def pause(self, data: st.DataObject, *, look: bool) -> None:
        """And a worker of each pool that comes by then."""
        going = [id_ for id_, one in self.model.messages.items() if not one.paused and one.state in GOING]
        id_ = data.draw(st.sampled_from(going)) if going else self._a_message(data)
        self._pause(id_, look=look)

    def _pause(self, id_: str, *, look: bool) -> None:
        assert self.run(self.scripts.pause(self.context, message_id=id_)) == self.model.pause(id_)
        for pool in Pool if look else ():
            self.take(pool, 3)

    @rule(options=OPTIONS)
    def send_to_many_and_pause(self, options: dict[str, Any]) -> None:
        """A bulk send that is paused before its last deliveries are made."""
        self.send_to_many({**options, "not_before": None}, 1)
        id_ = f"b{self.sent}"
        self._pause(id_, look=False)
        if self.expanding and self.expanding[-1].message_id == id_:
            self._expand(self.expanding[-1], 100)
        self.take(Pool.STANDARD, 3)

    @precondition(lambda self: any(one.paused for one in self.model.messages.values()))
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        paused = [id_ for id_, message in self.model.messages.items() if message.paused]
        self._resume(data.draw(st.sampled_from(paused)))

    @rule(data=st.data())
    def resume_any(self, data: st.DataObject) -> None:
        self._resume(self._a_message(data))

    def _resume(self, id_: str) -> None:
        status, next_look_ms = self.run(self.scripts.resume(self.context, message_id=id_))
        assert status == self.model.resume(id_)
        if status == "resumed":
            self.look(next_look_ms)

    @rule(data=st.data(), forward=st.sampled_from(("", "", *MESSAGES)), ms=st.sampled_from((0, 0, 5_000, 60_001)))
    def gather(self, data: st.DataObject, forward: str, ms: int) -> None:
        self.advance(ms)
        some = [id_ for id_, message in self.model.messages.items() if message.gather_at is not None]
        id_ = data.draw(st.sampled_from(some)) if some else self._a_message(data)
        status, next_look_ms = self.run(
            self.scripts.gather(
                self.context,
                message_id=id_,
                text="all",
                forward_id=forward,
                forward_digest="hello" if forward else "",
                forward_envelope="hello" if forward else "",
                deliveries=(f"{id_}:1",),
            )
        )
        assert status == self.model.gather(id_, (f"{id_}:1",))
        if status != "gathered":
            return
        if forward and self.model.accept(forward, "hello", len("hello")):
            entry = self.run(self.ledger.entry_of(forward))
            self.model.messages[forward].entry = entry
            self.entries.append((entry, forward, "hello"))
        self.look(next_look_ms)

    @precondition(lambda self: self.moved)
    @rule(data=st.data())
    def dispatch_again(self, data: st.DataObject) -> None:
        """A dispatcher that crashed behind its move."""
        move = data.draw(st.sampled_from(self.moved))
        answer = self.run(self.scripts.dispatch(self.context, owner=self.owner, move=move, seed=self.seed()))
        assert answer.status == "gone"

    @rule(pool=st.sampled_from(Pool), limit=st.integers(1, 3))
    def take(self, pool: Pool, limit: int) -> None:
        batch = self.run(self.scripts.take(self.context, owner="worker", pool=pool, limit=limit, lease_ms=LEASE_MS))
        expected, more = self.model.take(pool, limit, LEASE_MS)
        found = [(one.id, one.token, one.attempt, one.epoch, one.fate_open) for one in batch.taken]
        assert found == expected
        assert batch.more == more
        assert batch.now_ms == self.model.now
        self.seen.extend(batch.taken)
        self.look(batch.next_look_ms, looked=True)

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        some = data.draw(st.lists(st.sampled_from(self.seen[-6:]), max_size=3))
        pairs = [(one.agent, one.token) for one in some]
        lost = self.run(self.scripts.renew(self.context, lease_ms=LEASE_MS, pairs=pairs))
        assert lost == self.model.renew(LEASE_MS, pairs)

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def record_run(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.seen[-6:]))
        stored = self.run(
            self.scripts.record_run(
                self.context, delivery_id=one.id, agent=one.agent, token=one.token, run_id=f"run-{one.token}"
            )
        )
        assert stored == self.model.record_run(one.agent, one.token)

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), how=HOWS, seeded=st.booleans())
    def settle(self, data: st.DataObject, how: dict[str, Any], *, seeded: bool) -> None:
        some = data.draw(st.lists(st.sampled_from(self.seen[-6:]), min_size=1, max_size=2))
        self._settle(some, how, seeded=seeded)

    def _settle(self, some: list[Taken], how: dict[str, Any], *, seeded: bool) -> None:
        settlements = [Settlement(one.id, one.agent, one.token, **how) for one in some]
        seed = self.seed() if seeded else ""
        answer = self.run(self.scripts.settle(self.context, seed=seed, settlements=settlements))
        assert list(answer.results) == [self.model.settle(one) for one in settlements]
        assert set(answer.pools) == (self.model.ring() if seeded else set())
        if seeded:
            self.look(answer.next_look_ms)

    @rule(pool=st.sampled_from(Pool), how=HOWS, seeded=st.booleans(), ms=st.sampled_from((0, 1_000, 15_000)))
    def turn(self, pool: Pool, how: dict[str, Any], ms: int, *, seeded: bool) -> None:
        """A whole turn, in time or late."""
        before = len(self.seen)
        self.take(pool, 2)
        self.advance(ms)
        for one in self.seen[before:]:
            self._settle([one], how, seeded=seeded)

    @rule(data=st.data(), first=st.sampled_from((1, 1, 2, 4)))
    def cancel(self, data: st.DataObject, first: int) -> None:
        """From the first, or where an earlier step has come to."""
        id_ = self._a_message(data)
        answer = self.run(self.scripts.cancel(self.context, message_id=id_, first=first))
        expected = self.model.cancel(id_, first)
        assert answer.found == (expected is not None)
        assert list(answer.results) == (expected or [])
        if answer.found:
            self.look(answer.next_look_ms)

    @rule(options=OPTIONS, how=HOWS, state=st.sampled_from((State.DEAD, State.UNKNOWN, State.REFUSED)))
    def die(self, options: dict[str, Any], how: dict[str, Any], state: State) -> None:
        """A new message, and a turn that is the last of whatever it takes."""
        self.send(options)
        before = len(self.seen)
        self.take(Pool.STANDARD, 3)
        for one in self.seen[before:]:
            self._settle([one], {**how, "state": state, "hold": ""}, seeded=True)

    def _a_letter(self, data: st.DataObject) -> tuple[str, str, str]:
        """One that is there, or one that was there."""
        there = [(one.entry_id, one.message, one.delivery) for one in self.ledgered.letters]
        self.letters_seen = list(dict.fromkeys([*self.letters_seen, *there]))
        return data.draw(st.sampled_from(self.letters_seen[-4:]))

    @precondition(lambda self: self.ledgered.letters or self.letters_seen)
    @rule(data=st.data(), ttl=st.sampled_from((None, None, 20_000)))
    def redrive(self, data: st.DataObject, ttl: int | None) -> None:
        """Once each; twice, or behind a discard, there is none."""
        entry_id, message, delivery = self._a_letter(data)
        is_there = bool(self.run(self.client.xrange(self.ledger.keys.dead, entry_id, entry_id)))
        answer = self.run(self.scripts.redrive(self.context, entry_id=entry_id, ttl_ms=ttl))
        if not is_there:
            assert answer.status == "gone"
        elif not delivery:
            assert answer.status == "redriven"
            entry = self.run(self.client.xrevrange(self.ledger.keys.tasks, count=1))[0][0].decode()
            self.entries.append((entry, *self.refused.pop(message)))
        else:
            assert answer.status == self.model.redrive(delivery, ttl)
        if answer.status == "redriven":
            self.look(answer.next_look_ms)

    @precondition(lambda self: self.ledgered.letters or self.letters_seen)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        entry_id, _, delivery = self._a_letter(data)
        is_there = bool(self.run(self.client.xrange(self.ledger.keys.dead, entry_id, entry_id)))
        answer = self.run(self.scripts.discard(self.context, entry_id=entry_id))
        if not is_there:
            assert answer == "gone"
        else:
            assert answer == (self.model.discard(delivery) if delivery else "discarded")

    @rule()
    def sweep(self) -> None:
        answer = self.run(self.scripts.sweep(self.context, seed=self.seed(), overflow_ms=10**9))
        assert set(answer.gathers) == self.model.sweep()
        assert set(answer.pools) == self.model.ring()
        self.look(answer.next_look_ms, looked=True)

    @rule(agent=st.sampled_from(AGENTS))
    def park(self, agent: str) -> None:
        answer = self.run(self.scripts.park(self.context, agent=agent, by="test", why="because"))
        assert answer == self.model.park(agent)

    @rule(agent=st.sampled_from(AGENTS))
    def unpark(self, agent: str) -> None:
        status, next_look_ms = self.run(self.scripts.unpark(self.context, agent=agent))
        assert status == self.model.unpark(agent)
        if status == "unparked":
            self.look(next_look_ms)

    @rule(suspended=st.sampled_from((False, False, True)))
    def suspend(self, *, suspended: bool) -> None:
        self.run(self.client.hset(self.ledger.keys.tenant, "suspended", int(suspended)))
        self.model.limits.suspended = suspended

    @rule(ms=st.sampled_from((1, 400, 999, 3_000, 15_000, 61_001, 200_000)))
    def advance(self, ms: int) -> None:
        self.run(self.time.advance(ms=ms + 0.001))
        self.model.now_us = self.time.now_us

    def look(self, next_look_ms: int, *, looked: bool = False) -> None:
        """Who looks when told to misses nothing: neither a time nor work nobody was rung for. Who has just looked
        is not told to do so again."""
        ledgered = self.run(audit(self.client, self.context, self.model.now_us, RULES))
        times = [at for name in TIMED for at in ledgered.zset(name).values()]
        times = [at for at in times if at < PARKED_MS]
        if self.model.is_held("*"):
            times.append(self.model.holds["*"])
        # A take purges nothing: only what else is there must lie ahead.
        ahead = [at for name in ("later", "leases", "expiries") for at in ledgered.zset(name).values()]
        assert not looked or all(at > self.model.now for at in ahead)
        if unclaimed(ledgered, self.model.now):
            times.append(self.model.now)
        assert next_look_ms == min(times, default=0)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "model"):
            return
        self.ledgered = self.run(audit(self.client, self.context, self.model.now_us, RULES))
        found, model = self.ledgered, self.model
        rows = {row.id: row for row in model.rows()}
        assert found.states() == {id_: str(row.state) for id_, row in rows.items()}
        for id_, fields in found.deliveries.items():
            row = rows[id_]
            assert int(fields.get("attempt", 0)) == row.attempt
            assert int(fields.get("epoch", 1)) == row.epoch
            assert fields["cause"] == row.cause
            assert int(fields.get("due", 0)) == row.due
            if not row.state.is_final:
                assert (fields.get("fate") == "open") == row.fate_open
        known = {id_: fields["state"] for id_, fields in found.messages.items() if not id_.startswith("x")}
        assert known == {id_: message.state for id_, message in model.messages.items()}
        for agent in AGENTS:
            box = [delivery for delivery, _ in found.mailboxes.get(agent, [])]
            assert box == [row.id for row in model.mailbox(agent)]
        self._agree_on_places(rows)
        self._agree_on_many()
        self._agree_on_counters()
        assert set(found.hash("parked")) == model.quarantined
        assert set(found.hash("rung")) == {str(pool) for pool in model.rung}
        assert all(score // RANK_WIDTH in range(4) for box in found.mailboxes.values() for _, score in box)

    def _agree_on_places(self, rows: dict[str, Row]) -> None:
        found, model = self.ledgered, self.model
        ends = {agent: lease.ends for agent, lease in model.leases.items()}
        assert found.zset("leases") == ends
        places = {agent: (place.rank, place.arrival) for agent, place in model.places.items() if not place.later}
        ready = {
            agent: (Priority(name).rank, arrival) for name, members in found.ready.items() for agent, arrival in members
        }
        assert ready == places
        later = {f"a:{agent}": place.later for agent, place in model.places.items() if place.later}
        later |= {f"d:{row.id}": row.comes for row in rows.values() if row.parked and not row.state.is_final}
        assert found.zset("later") == later
        scores = {id_: divmod(int(fields["score"]), RANK_WIDTH) for id_, fields in found.deliveries.items()}
        assert scores == {row.id: (row.rank, row.arrival) for row in rows.values()}

    def _agree_on_many(self) -> None:
        """Each recipient exactly one delivery, its agent's and no other's, in the order in which it was taken down."""
        found, messages = self.ledgered, self.model.messages
        for id_, message in messages.items():
            fields = found.messages[id_]
            made = [found.deliveries[f"{id_}:{number}"]["agent"] for number in range(1, len(message.rows) + 1)]
            recipients = [] if message.move is None else [agent for agent, _ in message.move.recipients]
            assert made + [agent for agent, _ in message.unmade] == recipients
            ends = Counter(str(row.state) for row in message.rows if row.state.is_final) if message.many else {}
            said = {name[2:]: int(value) for name, value in fields.items() if name.startswith("n_") and value != "0"}
            assert said == ends
            assert ("paused" in fields) == message.paused
            assert fields.get("gathered") == (None if message.gathered is None else " ".join(message.gathered))
        looked_for = {id_: one.gather_at for id_, one in messages.items() if one.gather_at is not None}
        assert found.zset("gathers") == looked_for
        assert set(found.zset("bulks")) == {id_ for id_, one in messages.items() if one.bulk}
        aside = {row.id for row in self.model.rows() if row.aside}
        assert {delivery for members in found.aside.values() for delivery, _ in members} == aside
        left = {id_: len(one.unmade) for id_, one in messages.items() if one.state == "expanding"}
        assert found.snapshots == left

    def _agree_on_counters(self) -> None:
        """Also while a bulk send is expanded, when the audit does not judge them."""
        counters, model = self.ledgered.hash("counters"), self.model
        states = Counter(str(message.state) for message in model.messages.values())
        rows = Counter(str(row.state) for row in model.rows())
        unmade = sum(len(message.unmade) for message in model.messages.values())
        expected = {
            "accepted": states["accepted"] + unmade,
            "expanding": states["expanding"],
            "waiting": rows["waiting"],
            "running": rows["running"],
            "bytes": model.bytes,
            "arrival": model.arrival,
        }
        assert {name: int(counters.get(name, 0)) for name in expected} == expected
