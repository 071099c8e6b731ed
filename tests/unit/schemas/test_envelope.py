"""The envelope: what is accepted, what is refused, and what makes two messages the same."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.envelope import (
    MAX_CONTENT_BYTES,
    MAX_TTL_SECONDS,
    PRIORITY_OF_RANK,
    Envelope,
    Kind,
    OnUnknown,
    Priority,
)

SMALLEST: dict[str, Any] = {"to": {"agent": "researcher"}, "content": "hello"}
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def envelope(**more: Any) -> Envelope:
    return Envelope.model_validate({**SMALLEST, **more})


def from_json(text: str) -> Envelope:
    return Envelope.model_validate_json(text)


def test_the_smallest_envelope_says_to_whom_and_what() -> None:
    """Everything else has a default that a producer may rely on."""
    one = envelope()
    assert (one.schema_version, one.kind, one.sender, one.priority) == (1, Kind.REQUEST, "producer", Priority.NORMAL)
    assert (one.id, one.tenant, one.reply_to, one.conversation, one.trace) == (None,) * 5
    assert (one.hops, one.on_unknown, one.metadata) == (0, OnUnknown.REDELIVER, {})
    assert (one.expires_at_ms(5), one.not_before_ms()) == (None, None)


BAD: dict[str, dict[str, Any]] = {
    "no content": {"content": None},
    "empty content": {"content": ""},
    "blank content": {"content": " \n\t "},
    "NUL": {"content": "a\x00b"},
    "content is a number": {"content": 5},
    "content is a list": {"content": ["a"]},
    "half a pair": {"content": "a\ud83d"},
    "no recipient": {"to": None},
    "recipient is text": {"to": "researcher"},
    "empty agent": {"to": {"agent": ""}},
    "agent with a newline": {"to": {"agent": "a\n"}},
    "agent with a control": {"to": {"agent": "a\x7f"}},
    "agent too long": {"to": {"agent": "a" * 257}},
    "unknown recipient field": {"to": {"agent": "a", "team": "b"}},
    "other version": {"schema_version": 2},
    "version zero": {"schema_version": 0},
    "version as text": {"schema_version": "1"},
    "no version": {"schema_version": None},
    "unknown kind": {"kind": "shout"},
    "unknown priority": {"priority": "highest"},
    "priority as a rank": {"priority": 0},
    "unknown choice": {"on_unknown": "resend"},
    "sender empty": {"sender": ""},
    "sender with a tab": {"sender": "a\tb"},
    "id with a newline": {"id": "m1\n"},
    "id with a colon": {"id": "m1:1"},
    "id with a brace": {"id": "{m1}"},
    "id empty": {"id": ""},
    "id too long": {"id": "m" * 101},
    "id is a number": {"id": 1},
    "tenant in capitals": {"tenant": "Acme"},
    "tenant with a brace": {"tenant": "a}"},
    "ttl zero": {"ttl": 0},
    "ttl negative": {"ttl": -1},
    "ttl too long": {"ttl": MAX_TTL_SECONDS + 1},
    "ttl infinite": {"ttl": float("inf")},
    "ttl not a number": {"ttl": float("nan")},
    "ttl is a word": {"ttl": "soon"},
    "ttl and expires_at": {"ttl": 5, "expires_at": "2027-01-01T00:00:00Z"},
    "no time zone": {"expires_at": "2027-01-01T00:00:00"},
    "no time zone before": {"not_before": "2027-01-01T00:00:00"},
    "not a time": {"expires_at": "tomorrow"},
    "not before the end": {"not_before": "2027-01-01T00:00:00Z", "expires_at": "2027-01-01T00:00:00Z"},
    "hops negative": {"hops": -1},
    "hops too many": {"hops": 1001},
    "hops is half": {"hops": 0.5},
    "conversation with a blank": {"conversation": "a b"},
    "conversation empty": {"conversation": ""},
    "conversation with an umlaut": {"conversation": "ä"},
    "metadata is a list": {"metadata": []},
    "metadata is none": {"metadata": None},
    "metadata is no JSON": {"metadata": {"a": object()}},
    "trace is text": {"trace": TRACEPARENT},
    "trace in capitals": {"trace": {"traceparent": TRACEPARENT.upper()}},
    "trace too long": {"trace": {"traceparent": TRACEPARENT + "-00"}},
    "trace with a newline": {"trace": {"traceparent": TRACEPARENT + "\n"}},
    "trace state too long": {"trace": {"traceparent": TRACEPARENT, "tracestate": "a" * 513}},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_what_is_wrong_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        envelope(**change)
    assert set(change) & {str(part) for error in refused.value.errors() for part in error["loc"]} or len(change) > 1


@pytest.mark.parametrize("missing", ["to", "content"])
def test_what_is_missing_is_named(missing: str) -> None:
    with pytest.raises(ValidationError, match=missing):
        Envelope.model_validate({name: value for name, value in SMALLEST.items() if name != missing})


@pytest.mark.parametrize("letter", ["a", "é", "€", "😀"])
def test_content_is_measured_in_bytes_of_utf8(letter: str) -> None:
    """256 KiB passes, one byte more does not, whatever the letters are."""
    size = len(letter.encode())
    fits = letter * (MAX_CONTENT_BYTES // size) + "a" * (MAX_CONTENT_BYTES % size)
    assert len(fits.encode()) == 262_144
    assert envelope(content=fits).content == fits

    with pytest.raises(ValidationError, match="262145 bytes, more than 262144"):
        envelope(content=fits + "a")


@pytest.mark.parametrize("escape", [r"\ud83d", r"\ude00", r"\ude00\ud83d", r"a\ud83d b"])
def test_half_a_surrogate_pair_by_escape_is_refused(escape: str) -> None:
    """Valid JSON, and no text: neither UTF-8 nor PostgreSQL would take it. A whole pair is a letter."""
    with pytest.raises(ValidationError):
        from_json(f'{{"to":{{"agent":"a"}},"content":"{escape}"}}')
    assert from_json(r'{"to":{"agent":"a"},"content":"\ud83d\ude00"}').content == "😀"


@pytest.mark.parametrize("escape", [r"a\u0000b", r"\u0020", r"\n"])
def test_escapes_are_judged_by_what_they_say(escape: str) -> None:
    with pytest.raises(ValidationError):
        from_json(f'{{"to":{{"agent":"a"}},"content":"{escape}"}}')


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '"text"', "{}", '{"to":1}'])
def test_what_is_no_envelope_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        from_json(text)


def test_what_this_version_does_not_know_travels_on() -> None:
    """A newer producer's fields survive an older reader, on the wire and in the digest."""
    new = {"x_route": {"via": ["a", None]}, "shade": 0.5, "nothing": False, "null": None}
    wire = envelope(**new).to_wire()

    assert {name: json.loads(wire)[name] for name in new} == new
    assert from_json(wire).to_wire() == wire
    assert from_json(wire).digest() == envelope(**new).digest() != envelope().digest()


def test_what_was_left_out_is_left_out_on_the_wire() -> None:
    assert json.loads(envelope().to_wire()) == SMALLEST
    assert json.loads(envelope(kind="request", hops=0, metadata={}).to_wire()) == SMALLEST


def test_an_envelope_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        envelope().content = "other"  # type: ignore[misc]


# Times


def test_ttl_counts_from_acceptance() -> None:
    assert envelope(ttl=1.5).expires_at_ms(1_000) == 2_500
    assert envelope(ttl=MAX_TTL_SECONDS).expires_at_ms(0) == MAX_TTL_SECONDS * 1000


@pytest.mark.parametrize("text", ["2027-01-01T00:00:00.250Z", "2027-01-01T05:30:00.250+05:30"])
def test_times_are_the_same_in_every_zone(text: str) -> None:
    at = int(datetime(2027, 1, 1, microsecond=250_000, tzinfo=UTC).timestamp() * 1000)
    assert envelope(expires_at=text).expires_at_ms(0) == at
    assert envelope(not_before=text).not_before_ms() == at


@given(st.integers(0, 4_000_000_000_000))
def test_a_time_of_whole_milliseconds_is_kept_to_the_millisecond(at_ms: int) -> None:
    """A float of seconds may lie just below it."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)
    assert envelope(expires_at=at.isoformat()).expires_at_ms(0) == at_ms
    assert envelope(not_before=at.isoformat()).not_before_ms() == at_ms


def test_a_turn_begins_neither_before_nor_after_by_a_part_of_a_millisecond() -> None:
    """Rounded to the side that keeps the promise."""
    at = "2027-01-01T00:00:00.000001Z"
    whole = int(datetime(2027, 1, 1, tzinfo=UTC).timestamp()) * 1000
    assert envelope(not_before=at).not_before_ms() == whole + 1
    assert envelope(expires_at=at).expires_at_ms(0) == whole


def test_a_time_to_live_of_whole_milliseconds_is_kept() -> None:
    for ms in range(1, 5_000):
        assert envelope(ttl=ms / 1000).expires_at_ms(0) == ms


# Digest


def test_the_digest_is_of_what_was_said() -> None:
    """Key order, white space, escapes, spelled-out defaults, the id and the span do not change it."""
    first = envelope(metadata={"a": 1, "b": [1, {"c": "é", "d": None}]})
    spelled_out = {"schema_version": 1, "kind": "request", "hops": 0, "sender": "producer", "metadata": first.metadata}
    same = [
        '{"content":"hello","metadata":{"b":[1,{"d":null,"c":"\\u00e9"}],"a":1},"to":{"agent":"researcher"}}',
        ' { "to" : {"agent":"researcher"},\n"content":"hel\\u006co","metadata":{"a":1,"b":[1,{"c":"é","d":null}]}}',
        json.dumps({**SMALLEST, **spelled_out}),
    ]
    for text in same:
        assert from_json(text).digest() == first.digest()
    for change in ({"id": "m1"}, {"tenant": "acme"}, {"trace": {"traceparent": TRACEPARENT}}):
        assert first.model_copy(update=change).digest() == first.digest()


DIFFERENT: list[dict[str, Any]] = [
    {},
    {"content": "hello "},
    {"content": "Hello"},
    {"to": {"agent": "other"}},
    {"priority": "high"},
    {"kind": "event"},
    {"sender": "me"},
    {"ttl": 60},
    {"ttl": 61},
    {"expires_at": "2027-01-01T00:00:00Z"},
    {"not_before": "2027-01-01T00:00:00Z"},
    {"reply_to": {"agent": "other"}},
    {"conversation": "c"},
    {"correlation_id": "c"},
    {"causation_id": "c"},
    {"hops": 1},
    {"on_unknown": "never_resend"},
    {"metadata": {"a": 1}},
    {"metadata": {"a": "1"}},
    {"metadata": {"a": True}},
    {"metadata": {"a": [1]}},
    {"new": 1},
]


def test_how_many_are_meant_at_most_is_not_what_was_said() -> None:
    """The same command under the same id finds one agent more or less, and is the same message."""
    ten, eleven, other = (
        envelope(to={"tags": ["role:a"], "at_most": 10}),
        envelope(to={"tags": ["role:a"], "at_most": 11}),
        envelope(to={"tags": ["role:b"], "at_most": 10}),
    )
    assert ten.digest() == eleven.digest() != other.digest()


def test_the_digest_tells_every_field() -> None:
    digests = [envelope(**change).digest() for change in DIFFERENT]
    assert len(set(digests)) == len(DIFFERENT)
    assert all(len(digest) == 32 for digest in digests)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
documents = st.fixed_dictionaries(
    {"to": st.fixed_dictionaries({"agent": words}), "content": words.filter(str.strip)},
    optional={
        "sender": words,
        "priority": st.sampled_from([str(one) for one in Priority]),
        "kind": st.sampled_from([str(one) for one in Kind]),
        "ttl": st.floats(0.001, MAX_TTL_SECONDS) | st.integers(1, MAX_TTL_SECONDS),
        "not_before": st.datetimes(timezones=st.timezones()).map(datetime.isoformat),
        "metadata": st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), json_values),
        "x_new": json_values,
        "hops": st.integers(0, 8),
    },
)


@given(documents)
def test_a_round_trip_changes_neither_the_wire_nor_the_digest(document: dict[str, Any]) -> None:
    """The publisher digests what it was given, the dispatcher what it read: they must agree for ever."""
    try:
        first = from_json(json.dumps(document))
    except ValidationError:
        # A zone whose offset has seconds, or a time outside the years a zone can be told in.
        assert "not_before" in document
        return
    again = from_json(first.to_wire())
    assert again == first
    assert again.to_wire() == first.to_wire()
    assert again.digest() == first.digest()
    reordered = json.dumps(dict(reversed(document.items())), indent=1)
    assert from_json(reordered).digest() == first.digest()


def test_ranks_and_priorities_are_two_ways_to_say_one_thing() -> None:
    assert [priority.rank for priority in PRIORITY_OF_RANK] == [0, 1, 2, 3]
    assert [str(priority) for priority in PRIORITY_OF_RANK] == ["urgent", "high", "normal", "low"]
