"""The server's words, cut and without what nobody may repeat."""

from hypothesis import given
from hypothesis import strategies as st

from workers.turn.letta.words import LIMIT, words


def test_stay_short_and_on_one_line() -> None:
    said = words("one\n  two\t" + "x" * 2_000)
    assert said.startswith("one two x")
    assert len(said) == LIMIT
    assert said.endswith("…")


@given(st.text(min_size=16, max_size=60), st.text(max_size=40), st.text(max_size=40))
def test_no_long_stretch_of_a_hidden_text_survives(secret: str, before: str, after: str) -> None:
    said = words(f"{before} {secret} {after}", secret)
    hidden = " ".join(secret.split())
    assert len(hidden) < 16 or hidden not in said


def test_a_part_of_a_hidden_text_is_blotted_out_too() -> None:
    assert words("near 'Wilhelmina Featherstonehaugh': bad", "I am Wilhelmina Featherstonehaugh, hello") == (
        "near '[…]': bad"
    )


def test_a_short_hidden_text_goes_where_it_stands_alone() -> None:
    assert words("Another other, other.", "other") == "Another […], […]."


def test_keys_go_whoever_quotes_them() -> None:
    assert words("Incorrect API key provided: sk-proj-abc***xyz.") == "Incorrect API key provided: [key]."
    assert words("header Authorization: Bearer abc.def-123") == "header Authorization: [key]"
