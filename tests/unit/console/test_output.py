"""How listings look, and that nothing that was written by others steers a terminal."""

import json
from dataclasses import dataclass

import pytest

from console.output import Column, Form, Listing, print_json, print_text, safe
from console.words import CAUSES, STATES, in_words
from schemas.delivery import Cause, State


@dataclass(frozen=True, slots=True)
class Pet:
    name: str
    legs: int


PETS: Listing[Pet] = Listing(
    columns=(Column("name", lambda pet: pet.name), Column("legs", lambda pet: str(pet.legs), wide=True)),
    name=lambda pet: pet.name,
    document=lambda pet: {"name": pet.name, "legs": pet.legs},
    nothing="no pets: buy one",
)
ROWS = [Pet("cat", 4), Pet("bird\x1b[31m", 2)]


def test_a_table_has_its_columns_and_wide_has_more(capsys: pytest.CaptureFixture[str]) -> None:
    PETS.show(ROWS, Form.TABLE)
    narrow = capsys.readouterr().out
    PETS.show(ROWS, Form.WIDE)
    wide = capsys.readouterr().out

    assert [line.rstrip() for line in narrow.splitlines()] == ["NAME", "cat", "bird␛[31m"]
    assert wide.splitlines()[0].split() == ["NAME", "LEGS"]


def test_names_stand_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    PETS.show([Pet("cat", 4), Pet("dog", 4)], Form.NAME)

    assert capsys.readouterr().out == "cat\ndog\n"


def test_json_is_one_document_even_where_there_is_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    PETS.show(ROWS, Form.JSON)
    assert json.loads(capsys.readouterr().out) == [{"name": "cat", "legs": 4}, {"name": "bird\x1b[31m", "legs": 2}]

    PETS.show([], Form.JSON)
    assert json.loads(capsys.readouterr().out) == []


def test_nothing_is_said_on_stderr_only(capsys: pytest.CaptureFixture[str]) -> None:
    PETS.show([], Form.TABLE)

    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "no pets: buy one\n")


def test_an_id_is_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    PETS.show([Pet("x" * 300, 4)], Form.TABLE)

    assert "x" * 300 in capsys.readouterr().out


@pytest.mark.parametrize("text", ["\x1b]0;title\x07", "\x9b31m", "a\u202eb", "\x7f", "\r", "\ud800"])
def test_what_steers_a_terminal_becomes_visible(text: str) -> None:
    shown = safe(text)

    assert shown != text
    assert all(letter.isprintable() or letter in "\n\t" for letter in shown)


def test_ordinary_text_stays_as_it_is() -> None:
    text = "Grüße, 世界 🌍\n\ttabbed"

    assert safe(text) == text


def test_a_reply_goes_into_a_pipe_byte_for_byte(capsys: pytest.CaptureFixture[str]) -> None:
    print_text("[bold]not markup[/bold] \x1b[1m")

    assert capsys.readouterr().out == "[bold]not markup[/bold] \x1b[1m\n"


def test_json_keeps_other_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"said": "世界"})

    assert json.loads(capsys.readouterr().out) == {"said": "世界"}


def test_every_cause_and_state_has_its_words() -> None:
    assert set(CAUSES) == set(Cause)
    assert set(STATES) == set(State)
    assert in_words(State.WAITING, None) == STATES[State.WAITING]
    assert in_words(State.WAITING, Cause.BUSY) == CAUSES[Cause.BUSY]
