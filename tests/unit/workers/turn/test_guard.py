"""What calls show of the server reaches the breaker, and costs no message an attempt while the server is away."""

from collections.abc import AsyncIterator
from dataclasses import replace

import fakeredis
import pytest

from schemas.context import service_context
from schemas.delivery import Cause
from schemas.outcome import Busy, Failed, FateUnknown, Outcome, Rejected, Replied, Throttled, Trouble
from tests.support.builders import ACME, AGENT, agent, resources
from tests.support.fake_letta_port import OK, FakeLetta
from tests.support.time import FakeClock
from workers.broker import keys
from workers.errors import LettaUnavailableError
from workers.turn.breaker import PROBE_SECONDS, Breaker, Circuit
from workers.turn.guard import NOTED_MS, GuardedLetta, Prober, trouble_of
from workers.turn.letta.contract import Call, NotDelivered

CALL = Call(AGENT, "hello", "otid", None, 60.0)
AWAY = Failed("not sent: refused", counts=False, trouble=Trouble.AWAY)
ILL = Failed("500 Internal Server Error", trouble=Trouble.ILL)
CUT = FateUnknown("cut: reset")


async def unnamed(_run_id: str) -> None:
    """Nobody wants to know."""


class Bench:
    def __init__(self, client: fakeredis.FakeAsyncRedis) -> None:
        self.client = client
        self.clock = FakeClock()
        self.letta = FakeLetta(roster=[agent()])
        self.breaker = Breaker(self.clock)
        self.guarded = GuardedLetta(self.letta, self.breaker, self.clock)
        self.resources = resources(client, clock=self.clock, log_level="error")
        self.prober = Prober(self.resources, self.guarded, self.breaker)

    async def turn(self, outcome: Outcome, to: str = AGENT) -> Outcome:
        self.letta.outcomes.append(outcome)
        return await self.guarded.turn(ACME, replace(CALL, agent=to), unnamed)

    def stands(self) -> Circuit:
        return self.breaker.circuit

    async def open(self) -> None:
        for _ in range(3):
            await self.turn(AWAY)
        assert self.stands() is Circuit.OPEN


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    client = fakeredis.FakeAsyncRedis()
    yield Bench(client)
    await client.aclose()


@pytest.mark.parametrize(
    ("outcome", "trouble"),
    [
        (OK, None),
        (Busy("409"), None),
        (Throttled("429", None, whole_tenant=True), None),
        (Rejected(Cause.REJECTED, "422"), None),
        (Failed("llm_error"), None),
        (Failed("409 deadlock", counts=False), None),
        (AWAY, Trouble.AWAY),
        (ILL, Trouble.ILL),
        (CUT, Trouble.ILL),
    ],
)
def test_only_the_servers_own_trouble_is_its_trouble(outcome: Outcome, trouble: Trouble | None) -> None:
    assert trouble_of(outcome) is trouble


async def test_a_failing_server_costs_attempts_until_it_is_known_to_fail_and_none_from_then_on(bench: Bench) -> None:
    counted = [await bench.turn(ILL, f"agent-{number}") for number in range(7)]

    assert [isinstance(one, Failed) and one.counts for one in counted] == [True] * 4 + [False] * 3
    assert bench.stands() is Circuit.OPEN
    assert await bench.turn(CUT) == replace(CUT, counts=False)


async def test_models_that_fail_are_no_reason(bench: Bench) -> None:
    outcomes = [await bench.turn(Failed("llm_error"), f"agent-{number}") for number in range(20)]

    assert bench.stands() is Circuit.CLOSED
    assert all(isinstance(one, Failed) and one.counts for one in outcomes)


async def test_looks_and_lists_that_get_no_answer_count_as_well(bench: Bench) -> None:
    bench.letta.away = True
    bench.letta.fates.append(LettaUnavailableError("refused"))
    with pytest.raises(LettaUnavailableError):
        await bench.guarded.look(ACME, CALL, None, 0)
    with pytest.raises(LettaUnavailableError):
        await bench.guarded.agent(ACME, AGENT)
    with pytest.raises(LettaUnavailableError):
        _ = [one async for one in bench.guarded.agents(ACME)]

    assert bench.stands() is Circuit.OPEN


async def test_a_look_that_the_server_answers_with_an_error_may_be_that_agents_trouble(bench: Bench) -> None:
    bench.letta.fates.extend(LettaUnavailableError("500", answered=True) for _ in range(10))
    for _ in range(10):
        with pytest.raises(LettaUnavailableError):
            await bench.guarded.look(ACME, CALL, None, 0)

    assert bench.stands() is Circuit.CLOSED


async def test_a_server_that_is_back_is_trusted_once_it_names_a_run(bench: Bench) -> None:
    """Not only when the agent has answered, which may take minutes."""
    await bench.open()
    bench.clock.advance(PROBE_SECONDS)
    await bench.prober.step()
    assert bench.stands() is Circuit.TRYING
    bench.breaker.granted()
    bench.letta.names_run = "run-1"
    seen: list[Circuit] = []
    bench.letta.on_turn = lambda _: seen.append(bench.stands())

    assert await bench.turn(OK) == OK
    assert seen == [Circuit.CLOSED]


async def test_a_server_is_asked_once_in_five_seconds_and_only_while_it_is_left_alone(bench: Bench) -> None:
    asked: list[float] = []

    async def awake() -> None:
        asked.append(bench.clock.monotonic())
        raise LettaUnavailableError("refused")

    bench.letta.awake = awake  # type: ignore[method-assign]
    await bench.prober.step()
    assert asked == []
    await bench.open()
    for _ in range(40):
        await bench.prober.step()
        bench.clock.advance(0.5)

    assert len(asked) == 3
    assert bench.stands() is Circuit.OPEN


async def test_a_server_that_answers_a_look_is_back(bench: Bench) -> None:
    await bench.open()
    bench.clock.advance(PROBE_SECONDS)
    await bench.prober.step()

    assert await bench.guarded.look(ACME, CALL, None, 0) == NotDelivered()
    assert bench.stands() is Circuit.CLOSED


async def test_tenants_with_something_to_do_are_told_while_it_lasts(bench: Bench) -> None:
    told: list[tuple[str, int]] = []

    async def note_away(context: object, *, for_ms: int) -> bool:
        told.append((getattr(context, "tenant", ""), for_ms))
        return True

    bench.resources.scripts.note_away = note_away  # type: ignore[method-assign]
    await bench.client.sadd(keys.tenants(), "acme", "globex")
    await bench.client.hset(keys.of(service_context("acme", "test")).rung, "standard", "seed|1")
    await bench.prober.step()
    assert told == []
    await bench.open()
    for _ in range(20):
        await bench.prober.step()
        bench.clock.advance(0.5)

    assert told == [("acme", NOTED_MS)] * 2


async def test_what_ends_well_is_passed_on_as_it_is(bench: Bench) -> None:
    assert await bench.turn(Replied("ok", "end_turn", "run-1")) == OK
    assert [one.id for one in [each async for each in bench.guarded.agents(ACME)]] == [AGENT]
    assert (await bench.guarded.abilities()).joins
