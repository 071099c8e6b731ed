"""The breaker's arithmetic: when it opens, how gently it asks, and when it closes."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.outcome import Trouble
from tests.support.time import FakeClock
from workers.turn.breaker import FORGOTTEN_SECONDS, PROBE_SECONDS, Breaker, Circuit

AWAY, ILL = Trouble.AWAY, Trouble.ILL


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.told: list[tuple[Circuit, float]] = []
        self.breaker = Breaker(self.clock, lambda circuit, seconds: self.told.append((circuit, seconds)))

    def stands(self) -> Circuit:
        return self.breaker.circuit

    def fail(self, trouble: Trouble = AWAY, *agents: str, age: float = 0.0) -> None:
        for agent in agents or ("a",):
            self.breaker.failed(trouble, agent, self.clock.monotonic() - age)

    def open(self) -> None:
        self.fail(AWAY, "a", "a", "a")
        assert self.stands() is Circuit.OPEN

    def try_again(self) -> None:
        """To where the next turn will tell."""
        self.clock.advance(PROBE_SECONDS)
        assert self.breaker.may_ask
        self.breaker.asked(answered=True)
        assert self.stands() is Circuit.TRYING


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize(
    ("failures", "opens"),
    [
        ([(AWAY, "a")] * 2, False),
        ([(AWAY, "a")] * 3, True),
        ([(ILL, "a"), (ILL, "b"), (ILL, "a"), (ILL, "b")], False),
        ([(ILL, "a"), (ILL, "b"), (ILL, "a"), (ILL, "b"), (ILL, "a")], True),
        ([(ILL, "a")] * 20, False),
        ([(AWAY, "a"), (AWAY, "a"), (ILL, "a"), (AWAY, "a"), (AWAY, "a")], False),
        ([(AWAY, "a"), (AWAY, "a"), (ILL, "b"), (AWAY, "a"), (AWAY, "a")], True),
    ],
)
def test_it_opens_by_what_is_certain_or_by_what_several_agents_meet(
    bench: Bench, failures: list[tuple[Trouble, str]], *, opens: bool
) -> None:
    for trouble, agent in failures:
        bench.fail(trouble, agent)

    assert bench.breaker.is_open is opens
    assert bench.told == ([(Circuit.OPEN, 0.0)] if opens else [])


def test_one_success_begins_a_new_row(bench: Bench) -> None:
    bench.fail(AWAY, "a", "b")
    bench.breaker.worked(bench.clock.monotonic())
    bench.fail(AWAY, "a", "b")

    assert bench.stands() is Circuit.CLOSED
    assert bench.breaker.admits


def test_what_failed_long_ago_is_forgotten(bench: Bench) -> None:
    bench.fail(AWAY, "a", "b")
    bench.clock.advance(FORGOTTEN_SECONDS + 0.1)
    bench.fail(AWAY, "c")

    assert not bench.breaker.is_open


def test_while_it_is_open_nothing_begins_and_nobody_asks_before_the_time(bench: Bench) -> None:
    bench.open()
    bench.clock.advance(PROBE_SECONDS - 0.1)
    assert (bench.breaker.admits, bench.breaker.may_ask) == (False, False)
    bench.clock.advance(0.1)
    assert (bench.breaker.admits, bench.breaker.may_ask) == (False, True)
    bench.breaker.asked(answered=False)
    assert (bench.breaker.admits, bench.breaker.may_ask) == (False, False)


def test_a_server_that_answers_gets_one_turn_and_is_trusted_when_it_takes_it(bench: Bench) -> None:
    bench.open()
    bench.try_again()
    assert (bench.stands(), bench.breaker.admits) == (Circuit.TRYING, True)
    bench.breaker.granted()
    assert (bench.stands(), bench.breaker.admits) == (Circuit.TRYING, False)
    began_at = bench.clock.monotonic()
    bench.clock.advance(0.2)

    bench.breaker.taken(began_at)

    assert (bench.stands(), bench.breaker.admits, bench.breaker.may_ask) == (Circuit.CLOSED, True, False)
    assert bench.told == [(Circuit.OPEN, 0.0), (Circuit.CLOSED, pytest.approx(PROBE_SECONDS + 0.2))]


def test_a_turn_that_fails_begins_the_time_anew(bench: Bench) -> None:
    bench.open()
    bench.try_again()
    bench.clock.advance(60)
    assert (bench.stands(), bench.breaker.may_ask) == (Circuit.TRYING, False)
    bench.breaker.granted()
    bench.fail(ILL)

    bench.clock.advance(PROBE_SECONDS - 0.1)
    assert (bench.stands(), bench.breaker.may_ask) == (Circuit.OPEN, False)
    bench.clock.advance(0.1)
    assert (bench.stands(), bench.breaker.may_ask) == (Circuit.OPEN, True)
    assert bench.told == [(Circuit.OPEN, 0.0)]


def test_a_turn_that_hangs_does_not_keep_others_from_trying(bench: Bench) -> None:
    bench.open()
    bench.try_again()
    bench.breaker.granted()

    bench.try_again()

    assert bench.breaker.admits


def test_room_that_nobody_used_is_there_for_the_next(bench: Bench) -> None:
    bench.open()
    bench.try_again()
    bench.breaker.granted()
    bench.breaker.unused()

    assert bench.breaker.admits


def test_calls_from_before_it_opened_tell_nothing(bench: Bench) -> None:
    """Neither that end well, sent while the server was well, nor that end badly."""
    bench.open()
    bench.breaker.worked(bench.clock.monotonic() - 1)
    assert bench.stands() is Circuit.OPEN
    bench.try_again()
    bench.fail(AWAY, age=PROBE_SECONDS + 1)

    assert bench.stands() is Circuit.TRYING
    assert bench.breaker.admits


def test_after_it_closed_a_whole_row_is_needed_again(bench: Bench) -> None:
    bench.open()
    bench.try_again()
    bench.breaker.granted()
    bench.breaker.worked(bench.clock.monotonic())
    bench.fail(AWAY, "a", "a")

    assert not bench.breaker.is_open


def test_an_answer_that_comes_after_it_closed_changes_nothing(bench: Bench) -> None:
    bench.breaker.asked(answered=False)
    bench.breaker.unused()
    bench.breaker.granted()

    assert bench.stands() is Circuit.CLOSED


@given(
    st.lists(
        st.tuples(st.sampled_from(("wait", "ask", "grant", "fail", "unused")), st.floats(0, 3), st.booleans()),
        max_size=80,
    )
)
def test_a_server_that_never_works_is_asked_and_tried_at_most_once_in_five_seconds(
    steps: list[tuple[str, float, bool]],
) -> None:
    bench = Bench()
    bench.open()
    asked: list[float] = [bench.clock.monotonic()]
    tried: list[float] = [bench.clock.monotonic()]
    for what, seconds, answered in steps:
        bench.clock.advance(seconds)
        now = bench.clock.monotonic()
        if what == "ask" and bench.breaker.may_ask:
            asked.append(now)
            bench.breaker.asked(answered=answered)
        elif what in {"grant", "unused"} and bench.breaker.admits:
            bench.breaker.granted()
            if what == "unused":
                bench.breaker.unused()
            else:
                tried.append(now)
        elif what == "fail":
            bench.fail()
        assert bench.breaker.is_open
    for times in (asked, tried[1:]):
        assert all(later - earlier >= PROBE_SECONDS - 1e-9 for earlier, later in pairwise(times))
