"""A turn read event by event."""

from types import SimpleNamespace as Event

from schemas.outcome import Failed, FateUnknown, Replied, Usage
from workers.turn.letta.reading import Reading

PING = Event(message_type="ping", run_id="run-1")
STOP = Event(message_type="stop_reason", stop_reason="end_turn")


def said(content: object, number: int = 1) -> Event:
    return Event(message_type="assistant_message", id=f"message-{number}", run_id="run-1", content=content)


def outcome_of(*events: Event) -> object:
    reading = Reading()
    reading.take_all(events)
    return reading.outcome()


def test_reads_text_stop_and_usage() -> None:
    usage = Event(message_type="usage_statistics", prompt_tokens=7, completion_tokens=2, total_tokens=9, step_count=1)
    assert outcome_of(PING, said("hello"), STOP, usage) == Replied("hello", "end_turn", "run-1", Usage(7, 2, 9, 1))


def test_several_texts_are_set_apart() -> None:
    assert outcome_of(PING, said("one", 1), said("two", 2), STOP) == Replied("one\n\ntwo", "end_turn", "run-1")


def test_pieces_of_one_message_are_one_text() -> None:
    assert outcome_of(said("hel"), said("lo"), STOP) == Replied("hello", "end_turn", "run-1")


def test_content_may_come_in_parts() -> None:
    parts = [Event(type="text", text="hel"), Event(type="image"), Event(type="text", text="lo")]
    assert outcome_of(said(parts), STOP) == Replied("hello", "end_turn", "run-1")


def test_a_turn_may_say_nothing() -> None:
    stop = Event(message_type="stop_reason", stop_reason="tool_rule")
    assert outcome_of(PING, stop) == Replied("", "tool_rule", "run-1")


def test_an_error_stop_has_not_landed() -> None:
    assert outcome_of(PING, Event(message_type="stop_reason", stop_reason="error")) == Failed("stop reason error")


def test_without_a_stop_reason_nobody_said_that_it_ended() -> None:
    outcome = outcome_of(PING, said("hello"))
    assert isinstance(outcome, FateUnknown)
    assert outcome.run_id == "run-1"
