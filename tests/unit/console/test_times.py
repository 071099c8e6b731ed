"""Times and sizes as people write and read them."""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.times import parse_duration, parse_since, parse_size, parse_when, relative, size_text, span

NOW = datetime(2026, 1, 31, 9, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d", 172_800), ("250ms", 0.25), (" 1.5 h ", 5400)],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "-5", "5x", "m", "10m!", "1e5", "nan", "inf", "0s", "9" * 400])
def test_what_is_no_duration_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match="expected a time such as"):
        parse_duration(text)


@given(st.text(max_size=30))
def test_no_text_breaks_the_readers(text: str) -> None:
    for read in (parse_duration, parse_size, lambda one: parse_when(one, NOW), lambda one: parse_since(one, NOW)):
        with contextlib.suppress(ValueError):
            read(text)


def test_a_time_is_absolute_or_from_now() -> None:
    assert parse_when("+5m", NOW) == NOW + timedelta(minutes=5)
    assert parse_when("2026-02-01T00:00:00+00:00", NOW) == datetime(2026, 2, 1, tzinfo=UTC)
    assert parse_when("2026-02-01T00:00", NOW).tzinfo is not None


def test_since_counts_backwards() -> None:
    assert parse_since("10m", NOW) == NOW - timedelta(minutes=10)
    assert parse_since("2026-01-01T00:00:00+00:00", NOW) == datetime(2026, 1, 1, tzinfo=UTC)


def test_a_time_beyond_the_calendar_is_refused() -> None:
    with pytest.raises(ValueError, match="too far away"):
        parse_when("+9999999999d", NOW)


def test_sizes_go_both_ways() -> None:
    assert parse_size("64MiB") == 64 * 1024**2
    assert size_text(parse_size("64MiB")) == "64 MiB"
    assert size_text(1536) == "1.5 KiB"
    assert size_text(7) == "7 B"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0384, "38 ms"),
        (4.21, "4.2 s"),
        (61, "61 s"),
        (300, "5 min"),
        (7500, "2 h 5 min"),
        (7200, "2 h"),
        (500_000, "5 d"),
    ],
)
def test_a_span_is_told_in_one_or_two_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_relative_looks_both_ways() -> None:
    assert relative(1_000, 4_000) == "3.0 s ago"
    assert relative(4_000, 1_000) == "in 3.0 s"
