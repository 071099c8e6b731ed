"""Backoff: jitter with a floor, doubling to a cap, and the server's own wish on top."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.backoff import backoff_ms

STEPS = st.tuples(st.integers(1, 10_000), st.integers(0, 10_000_000)).map(lambda two: (two[0], two[0] + two[1]))
DICE = st.floats(0, 1, exclude_max=True)


@given(attempt=st.integers(1, 10_000), step=STEPS, dice=DICE)
def test_lies_between_a_tenth_of_the_step_and_the_step(attempt: int, step: tuple[int, int], dice: float) -> None:
    base, cap = step
    wait = backoff_ms(attempt, base_ms=base, cap_ms=cap, random=lambda: dice)
    top = min(cap, base * 2 ** (attempt - 1))
    assert max(1, top // 10 - 1) <= wait <= top


@given(attempt=st.integers(1, 40), step=STEPS, dice=DICE)
def test_never_shrinks_with_the_attempts(attempt: int, step: tuple[int, int], dice: float) -> None:
    base, cap = step
    waits = [backoff_ms(each, base_ms=base, cap_ms=cap, random=lambda: dice) for each in (attempt, attempt + 1)]
    assert waits[0] <= waits[1]


@given(attempt=st.integers(1, 40), step=STEPS, dice=DICE, asked=st.integers(0, 10**9))
def test_what_the_server_asks_wins_where_it_is_longer(
    attempt: int, step: tuple[int, int], dice: float, asked: int
) -> None:
    base, cap = step
    own = backoff_ms(attempt, base_ms=base, cap_ms=cap, random=lambda: dice)
    assert backoff_ms(attempt, base_ms=base, cap_ms=cap, random=lambda: dice, retry_after_ms=asked) == max(own, asked)


def test_spreads_over_the_whole_step() -> None:
    low = backoff_ms(3, base_ms=1_000, cap_ms=60_000, random=lambda: 0.0)
    high = backoff_ms(3, base_ms=1_000, cap_ms=60_000, random=lambda: 0.999_999)
    assert (low, high) == (400, 3_999)


@pytest.mark.parametrize(("attempt", "base", "cap"), [(0, 1, 1), (1, 0, 1), (1, 5, 4)])
def test_refuses_what_makes_no_sense(attempt: int, base: int, cap: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        backoff_ms(attempt, base_ms=base, cap_ms=cap, random=lambda: 0.5)
