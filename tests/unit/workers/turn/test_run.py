"""One turn: it looks before it sends again, asks the policies, calls once, and always comes to a settlement."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import fakeredis
import pytest

from schemas.delivery import Cause, State, Taken
from schemas.envelope import Envelope
from schemas.outcome import Busy, Failed, FateUnknown, Rejected, Replied
from tests.support.builders import ACME, AGENT, agent, envelope, resources, taken
from tests.support.fake_letta_port import FakeLetta
from tests.support.time import FakeClock
from workers.broker.results import Settlement
from workers.broker.rules import CALL_WITHIN_MS
from workers.directory.agents import Directory
from workers.errors import LettaUnavailableError
from workers.mailbox.leases import Keeper
from workers.turn.inflight import AdaptiveLimit
from workers.turn.letta.contract import CannotTell, Ended, NotDelivered, StillRunning
from workers.turn.run import Turn, TurnRunner

TAKEN_AT_MS = 1_800_000_000_000
MAX_ATTEMPTS = 3


class Bench:
    """A runner with a scripted Letta; `run` takes and runs one delivery."""

    def __init__(self, client: fakeredis.FakeAsyncRedis) -> None:
        self.clock = FakeClock()
        self.letta = FakeLetta(roster=[agent()])
        self.resources = resources(client, clock=self.clock, max_attempts=MAX_ATTEMPTS, turn_deadline_seconds=60)
        self.directory = Directory(client, self.letta, self.clock)
        self.keeper = Keeper(self.resources)
        self.limit = AdaptiveLimit(self.clock, highest=8)
        self.runner = TurnRunner(self.resources, self.letta, self.directory, self.keeper, self.limit)
        self.lease_asked = self.clock.monotonic()

    async def run(self, said: Envelope | None = None, *, waited: float = 0, **fields: Any) -> Settlement:
        said = said or envelope()
        one = taken(**{"opened_at_ms": TAKEN_AT_MS, "envelope": said, **fields})
        asked_at = self.clock.monotonic()
        self.clock.advance(waited)
        self.hold(one, asked_at)
        return await self.runner.run(Turn(ACME, one, said, TAKEN_AT_MS, asked_at))

    def hold(self, one: Taken, asked_at: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.keeper.hold(ACME, one, task, asked_at=asked_at)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    client = fakeredis.FakeAsyncRedis()
    yield Bench(client)
    await client.aclose()


async def test_a_turn_is_one_call_of_the_agent_under_a_name_of_its_own(bench: Bench) -> None:
    found = await bench.run(envelope(content="what is new?", conversation="conv-1"), epoch=4)

    assert (found.state, found.reply, found.run_id) == (State.DELIVERED, "ok", "run-1")
    (call,) = bench.letta.calls
    assert (call.agent, call.content, call.conversation) == (AGENT, "what is new?", "conv-1")
    assert call.otid == f"postroom:acme:m1:1:{AGENT}:4"
    assert call.deadline_seconds == 60
    assert bench.letta.looks == []
    assert bench.limit.in_flight == 0


async def test_the_trace_and_the_hop_travel_into_the_call(bench: Bench) -> None:
    trace_id = "1" * 32
    await bench.run(envelope(hops=3, trace={"traceparent": f"00-{trace_id}-{'2' * 16}-01"}))

    (context,) = bench.letta.contexts
    assert (context.tenant, context.hop) == ("acme", 3)
    assert context.trace is not None
    assert context.trace.traceparent[3:35] == trace_id


async def test_a_call_whose_fate_is_open_is_looked_for_and_its_end_is_the_settlement(bench: Bench) -> None:
    bench.letta.fates.append(Ended(Replied("from before", "end_turn", "run-0")))
    found = await bench.run(fate_open=True, run_id="run-0", opened_at_ms=TAKEN_AT_MS - 5_000, attempt=2)

    assert (found.state, found.reply) == (State.DELIVERED, "from before")
    assert bench.letta.calls == []
    ((call, run_id, opened_at_ms),) = bench.letta.looks
    assert call.otid == f"postroom:acme:m1:1:{AGENT}:1"
    assert (run_id, opened_at_ms) == ("run-0", TAKEN_AT_MS - 5_000)


async def test_a_call_that_never_began_is_made_now(bench: Bench) -> None:
    bench.letta.fates.append(NotDelivered())
    found = await bench.run(fate_open=True, attempt=2)

    assert found.state is State.DELIVERED
    assert len(bench.letta.calls) == 1


async def test_a_turn_that_the_server_still_works_on_is_looked_for_again_and_never_sent(bench: Bench) -> None:
    bench.letta.fates.append(StillRunning("run-5"))
    found = await bench.run(fate_open=True)

    assert (found.state, found.cause, found.fate_open, found.refund) == (State.WAITING, Cause.LOOKING, True, True)
    assert found.run_id == "run-5"
    assert bench.letta.calls == []


@pytest.mark.parametrize(("choice", "state"), [("redeliver", State.WAITING), ("never_resend", State.UNKNOWN)])
async def test_a_turn_that_never_ends_is_left_to_the_senders_choice(bench: Bench, choice: str, state: State) -> None:
    bench.letta.fates.append(StillRunning("run-5"))
    found = await bench.run(envelope(on_unknown=choice), fate_open=True, opened_at_ms=TAKEN_AT_MS - 120_001)

    assert (found.state, found.fate_open) == (state, False)
    assert bench.letta.calls == []


@pytest.mark.parametrize(
    ("choice", "expires_at_ms", "state"),
    [
        ("redeliver", None, State.WAITING),
        ("redeliver", TAKEN_AT_MS - 1, State.UNKNOWN),
        ("never_resend", None, State.UNKNOWN),
    ],
)
async def test_where_nobody_can_tell_the_senders_choice_decides_and_nothing_is_sent_in_the_same_turn(
    bench: Bench, choice: str, expires_at_ms: int | None, state: State
) -> None:
    bench.letta.fates.append(CannotTell("no runs are listed"))
    found = await bench.run(envelope(on_unknown=choice), fate_open=True, expires_at_ms=expires_at_ms)

    assert (found.state, found.fate_open) == (state, False)
    assert bench.letta.calls == []


async def test_a_server_that_cannot_be_asked_leaves_the_fate_open_at_no_cost(bench: Bench) -> None:
    bench.letta.fates.append(LettaUnavailableError("no route"))
    found = await bench.run(fate_open=True, run_id="run-1", attempt=2)

    assert (found.state, found.cause, found.fate_open, found.refund) == (State.WAITING, Cause.LOOKING, True, True)
    assert found.run_id == "run-1"
    assert bench.letta.calls == []


async def test_what_expired_while_it_waited_is_never_called(bench: Bench) -> None:
    found = await bench.run(expires_at_ms=TAKEN_AT_MS)

    assert (found.state, found.cause) == (State.EXPIRED, Cause.TTL)
    assert bench.letta.calls == []


async def test_what_expired_on_its_way_from_the_take_is_never_called(bench: Bench) -> None:
    found = await bench.run(expires_at_ms=TAKEN_AT_MS + 200, waited=0.3)

    assert found.state is State.EXPIRED
    assert bench.letta.calls == []


async def test_what_expired_while_it_was_looked_for_is_never_called(bench: Bench) -> None:
    bench.letta.fates.append(NotDelivered())
    found = await bench.run(fate_open=True, expires_at_ms=TAKEN_AT_MS - 1)

    assert (found.state, found.fate_open) == (State.EXPIRED, False)
    assert bench.letta.calls == []


async def test_a_charge_that_is_too_old_goes_back_at_once_and_at_no_cost(bench: Bench) -> None:
    found = await bench.run(waited=CALL_WITHIN_MS / 1000 + 0.01)

    assert (found.state, found.cause, found.refund, found.due_in_ms) == (State.WAITING, Cause.RETURNED, True, 0)
    assert bench.letta.calls == []


async def test_without_a_lease_nothing_is_called(bench: Bench) -> None:
    """Another worker may have the agent before the call is out."""
    said = envelope()
    one = taken(envelope=said)
    found = await bench.runner.run(Turn(ACME, one, said, TAKEN_AT_MS, bench.clock.monotonic()))

    assert (found.state, found.cause) == (State.WAITING, Cause.RETURNED)
    assert bench.letta.calls == []


async def test_a_lease_under_another_token_is_not_ours(bench: Bench) -> None:
    said = envelope()
    bench.hold(taken(token=2), bench.clock.monotonic())
    found = await bench.runner.run(Turn(ACME, taken(token=1), said, TAKEN_AT_MS, bench.clock.monotonic()))

    assert found.cause is Cause.RETURNED
    assert bench.letta.calls == []


async def test_a_lease_that_is_nearly_over_is_not_used_for_a_call(bench: Bench) -> None:
    """A look may take long; the lease is then renewed by the keeper, or it is not."""
    said = envelope()
    one = taken(envelope=said)
    now = bench.clock.monotonic()
    bench.hold(one, now - 13.1)
    found = await bench.runner.run(Turn(ACME, one, said, TAKEN_AT_MS, now))

    assert found.cause is Cause.RETURNED
    assert bench.letta.calls == []


@pytest.mark.parametrize("roster", [[], [agent(tenant="globex")]], ids=["gone", "another tenant's"])
async def test_an_agent_that_is_not_the_tenants_is_never_called(bench: Bench, roster: list[Any]) -> None:
    bench.letta.roster = roster
    found = await bench.run()

    assert (found.state, found.cause) == (State.REFUSED, Cause.UNKNOWN_AGENT)
    assert bench.letta.calls == []


async def test_an_agent_that_cannot_be_looked_up_waits_at_no_cost(bench: Bench) -> None:
    bench.letta.away = True
    found = await bench.run()

    assert (found.state, found.cause, found.refund, found.fate_open) == (State.WAITING, Cause.SERVER_AWAY, True, False)
    assert bench.letta.calls == []


async def test_a_chain_that_is_too_long_is_never_called(bench: Bench) -> None:
    found = await bench.run(envelope(hops=8))

    assert (found.state, found.cause) == (State.REFUSED, Cause.LOOP)
    assert bench.letta.calls == []


async def test_a_failure_after_the_expiry_is_not_tried_again(bench: Bench) -> None:
    bench.letta.on_turn = lambda _: bench.clock.advance(5)
    bench.letta.outcomes.append(Failed("500"))
    found = await bench.run(expires_at_ms=TAKEN_AT_MS + 1_000)

    assert (found.state, found.cause, found.detail) == (State.EXPIRED, Cause.TTL, "500")


async def test_a_turn_that_began_in_time_and_ends_late_is_delivered(bench: Bench) -> None:
    bench.letta.on_turn = lambda _: bench.clock.advance(5)
    found = await bench.run(expires_at_ms=TAKEN_AT_MS + 1_000)

    assert found.state is State.DELIVERED


async def test_the_run_id_is_stored_the_moment_it_is_named(bench: Bench) -> None:
    bench.letta.names_run = "run-42"
    stored: list[object] = []

    async def record_run(*_: object, **said: object) -> bool:
        stored.append(said)
        assert bench.letta.running == 1
        return True

    bench.resources.scripts.record_run = record_run  # type: ignore[method-assign]
    await bench.run(token=9)

    assert stored == [{"delivery_id": "m1:1", "agent": AGENT, "token": 9, "run_id": "run-42"}]


async def test_a_redis_that_is_away_when_the_run_is_named_does_not_stop_the_turn(bench: Bench) -> None:
    bench.letta.names_run = "run-42"

    async def record_run(*_: object, **__: object) -> bool:
        raise ConnectionError

    bench.resources.scripts.record_run = record_run  # type: ignore[method-assign]
    found = await bench.run()

    assert found.state is State.DELIVERED


@pytest.mark.parametrize("error", [RuntimeError("bug"), ValueError("odd"), KeyError("x"), TimeoutError()])
async def test_an_error_in_the_adapter_leaves_the_fate_open(bench: Bench, error: Exception) -> None:
    """It may have come before, during or after the call: the next attempt looks."""
    bench.letta.outcomes.append(error)
    found = await bench.run()

    assert (found.state, found.cause, found.fate_open) == (State.WAITING, Cause.LOOKING, True)
    assert bench.limit.in_flight == 0
    assert "bug" not in found.detail


async def test_a_turn_that_is_cut_gives_its_place_back_and_settles_nothing(bench: Bench) -> None:
    bench.letta.gate = asyncio.Event()
    task = asyncio.create_task(bench.run())
    while not bench.letta.running:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert bench.limit.in_flight == 0


@pytest.mark.parametrize(
    ("outcome", "counted"),
    [(Replied("x", "end_turn", None), 1), (Busy("b"), 0), (Failed("f"), 0), (FateUnknown("u"), 0)],
)
async def test_only_a_turn_that_ran_teaches_the_limit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, outcome: Any, counted: int
) -> None:
    told: list[bool] = []
    bench.letta.outcomes.append(outcome)
    ended = bench.limit.ended

    def listen(token: Any, *, counted: bool) -> None:
        told.append(counted)
        ended(token, counted=counted)

    monkeypatch.setattr(bench.limit, "ended", listen)
    await bench.run()

    assert told == [bool(counted)]


async def drive(bench: Bench, *, most: int = 30) -> tuple[Settlement, int]:
    """Takes again and again as the ledger would, until the delivery has ended; how, and after how many takes."""
    attempt, fate_open, epoch, found = 0, False, 1, None
    for takes in range(1, most + 1):
        attempt += 1
        found = await bench.run(attempt=attempt, fate_open=fate_open, epoch=epoch)
        if found.state is not State.WAITING:
            return found, takes
        attempt -= found.refund
        epoch += not found.fate_open
        fate_open = found.fate_open
    pytest.fail(f"still waiting after {most} takes: {found}")


async def test_attempts_are_bounded_where_every_call_is_cut_before_it_began(bench: Bench) -> None:
    """A network that breaks each call, at a server that never saw one: the looks say so, the calls are counted."""
    bench.letta.outcomes.extend([FateUnknown("reset")] * 50)
    found, _ = await drive(bench)

    assert (found.state, found.cause) == (State.DEAD, Cause.ATTEMPTS)
    assert len(bench.letta.calls) == MAX_ATTEMPTS


async def test_attempts_are_bounded_where_every_call_fails(bench: Bench) -> None:
    bench.letta.outcomes.extend([Failed("500")] * 50)
    found, _ = await drive(bench)

    assert (found.state, found.cause) == (State.DEAD, Cause.ATTEMPTS)
    assert len(bench.letta.calls) == MAX_ATTEMPTS


async def test_attempts_are_bounded_where_the_adapter_errs_each_time(bench: Bench) -> None:
    bench.letta.outcomes.extend([RuntimeError("bug")] * 50)
    found, _ = await drive(bench)

    assert found.state is State.DEAD
    assert len(bench.letta.calls) == MAX_ATTEMPTS


async def test_looks_are_bounded_where_looking_errs_each_time(bench: Bench) -> None:
    """Nobody can say whether the agent got it: it ends as unknown, for a person."""
    bench.letta.outcomes.append(FateUnknown("reset"))
    bench.letta.fates.extend([RuntimeError("bug")] * 50)
    found, _ = await drive(bench)

    assert (found.state, found.cause) == (State.UNKNOWN, Cause.OUTCOME_UNKNOWN)
    assert len(bench.letta.calls) == 1


async def test_the_last_attempt_may_still_be_found_to_have_ended_well(bench: Bench) -> None:
    bench.letta.outcomes.extend([FateUnknown("reset")] * MAX_ATTEMPTS)
    bench.letta.fates.extend([NotDelivered()] * (MAX_ATTEMPTS - 1))
    bench.letta.fates.append(Ended(Replied("after all", "end_turn", "run-1")))
    found, _ = await drive(bench)

    assert (found.state, found.reply) == (State.DELIVERED, "after all")


async def test_an_agent_that_letta_does_not_know_is_asked_for_anew_before_its_next_message(bench: Bench) -> None:
    """It was deleted after the list was read: one call finds out, and no second one is made."""
    await bench.run()
    bench.clock.advance(1.5)
    bench.letta.roster = []
    bench.letta.outcomes.append(Rejected(Cause.UNKNOWN_AGENT, "404"))
    first = await bench.run()
    bench.clock.advance(1.5)
    second = await bench.run()

    assert first.state is second.state is State.REFUSED
    assert len(bench.letta.calls) == 2
