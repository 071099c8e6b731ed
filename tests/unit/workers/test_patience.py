"""Patience has an end, and remembers only so much."""

from tests.support.time import FakeClock
from workers.patience import Patience
from workers.version import numbers, own


def test_patience_begins_with_the_first_question_and_ends() -> None:
    clock = FakeClock()
    patience = Patience(clock, 10)

    assert not patience.is_over("a")
    clock.advance(9)
    assert not patience.is_over("a")
    assert not patience.is_over("b")
    clock.advance(1)
    assert patience.is_over("a")
    assert not patience.is_over("b")


def test_without_seconds_there_is_none() -> None:
    assert Patience(FakeClock(), 0).is_over("a")


def test_what_nobody_asked_after_is_forgotten_and_makes_room() -> None:
    clock = FakeClock()
    patience = Patience(clock, 10, most=2)
    assert [patience.is_over(one) for one in "abc"] == [False, False, True]
    clock.advance(21)

    assert [patience.is_over(one) for one in "cd"] == [False, False]


def test_versions_are_told_apart_by_their_numbers() -> None:
    assert numbers("0.9.1") < numbers("0.10.0") < numbers("1.0.0rc1")
    assert numbers("unknown") == numbers("") == ()
    assert numbers(own())
