"""The door: whatever comes, it is an envelope or a refusal that says what was wrong and where, soon."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.address import in_short
from schemas.delivery import Cause
from schemas.envelope import MAX_CONTENT_BYTES, MAX_METADATA_BYTES, Envelope
from tests.support.builders import ACME
from workers.bus import door

GOOD: dict[str, Any] = {"to": {"agent": "researcher"}, "content": "hello"}
CANARY = "canary-7f3a"
DEEP = 10_000


def wire(**fields: Any) -> bytes:
    return json.dumps({**GOOD, **fields}).encode()


def refused(raw: bytes | str) -> door.Refusal:
    began = time.monotonic()
    with pytest.raises(door.Refusal) as caught:
        door.read(ACME, raw)
    assert time.monotonic() - began < 0.5
    str(caught.value).encode()
    return caught.value


def test_the_smallest_envelope_is_enough() -> None:
    found = door.read(ACME, b'{"to":{"agent":"researcher"},"content":"hello"}')

    assert (in_short(found.to), found.content, found.id) == ("researcher", "hello", None)


def test_fields_that_this_version_does_not_know_survive() -> None:
    found = door.read(ACME, wire(colour={"deep": [1, 2.5, None, "x"]}, digest=1, model_dump="mine"))

    said = json.loads(found.to_wire())
    assert said["colour"] == {"deep": [1, 2.5, None, "x"]}
    assert (said["digest"], said["model_dump"]) == (1, "mine")


@pytest.mark.parametrize(
    ("raw", "where", "words"),
    [
        (b"", "message", "not JSON"),
        (b"{", "message", "not JSON"),
        (b'{"to":', "message", "not JSON"),
        (b"\xff\xfe{}", "message", "not UTF-8 at byte 0"),
        (b'{"content":"\xc3\x28"}', "message", "not UTF-8 at byte 12"),
        (b"\xed\xa0\x80", "message", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "message", "not JSON"),
        (b"null", "message", "expected a JSON object"),
        (b"[]", "message", "expected a JSON object"),
        (b'"text"', "message", "expected a JSON object"),
        (b"7", "message", "expected a JSON object"),
        (b"NaN", "message", "NaN is not JSON"),
        (b'{"a":NaN}', "message", "NaN is not JSON"),
        (b'{"a":[Infinity]}', "message", "Infinity is not JSON"),
        (b'{"a":-Infinity}', "message", "-Infinity is not JSON"),
        (b'{"a":1e999}', "message", "a number too large"),
        (b'{"a":[{"b":-1e999}]}', "message", "a number too large"),
        (b'{"a":' + b"9" * 5_000 + b"}", "message", "not JSON"),
        (b'{"a":"\\ud800"}', "message", "half of a surrogate pair"),
        (b'{"\\udfff":1}', "message", "half of a surrogate pair"),
        (b'{"a":{"\\ud800":1,"\\ud800":2}}', "?", "stands twice"),
        (b"{}", "to", "Field required"),
        (b'{"to":{"agent":"x"}}', "content", "Field required"),
        (wire(content=1), "content", "valid string"),
        (wire(content=""), "content", "content is empty"),
        (wire(content=" \n\t"), "content", "content is empty"),
        (wire(content="a\x00b"), "content", "content has a NUL character"),
        (wire(content=None), "content", "valid string"),
        (wire(to="researcher"), "to", "expected an agent"),
        (wire(to=None), "to", "expected an agent"),
        (wire(to={}), "to", "expected an agent"),
        (wire(to={"agent": ""}), "to.agent", "at least 1 character"),
        (wire(to={"agent": "a\nb"}), "to.agent", "match pattern"),
        (wire(to={"agent": "a\x00"}), "to.agent", "match pattern"),
        (wire(to={"agent": "x" * 257}), "to.agent", "at most 256 characters"),
        (wire(to={"agent": "x", "team": "y"}), "to.team", "Extra inputs"),
        (wire(id=""), "id", "match pattern"),
        (wire(id="a:1"), "id", "match pattern"),
        (wire(id="a\n"), "id", "match pattern"),
        (wire(id="../x"), "id", "match pattern"),
        (wire(id="{acme}"), "id", "match pattern"),
        (wire(id="x" * 101), "id", "match pattern"),
        (wire(id="\u0430bc"), "id", "match pattern"),
        (wire(id=7), "id", "valid string"),
        (wire(kind="order"), "kind", "Input should be"),
        (wire(priority="asap"), "priority", "Input should be"),
        (wire(priority=0), "priority", "Input should be"),
        (wire(on_unknown="retry"), "on_unknown", "Input should be"),
        (wire(ttl=0), "ttl", "greater than 0"),
        (wire(ttl=-5), "ttl", "greater than 0"),
        (wire(ttl=1e12), "ttl", "less than or equal"),
        (wire(ttl=[1]), "ttl", "valid number"),
        (wire(expires_at="tomorrow"), "expires_at", "valid datetime"),
        (wire(expires_at="2030-01-01T00:00:00"), "expires_at", "timezone"),
        (wire(expires_at=1e300), "expires_at", "valid datetime"),
        (wire(not_before={}), "not_before", "valid datetime"),
        (wire(ttl=5, expires_at="2030-01-01T00:00:00Z"), "message", "not both"),
        (
            wire(not_before="2030-01-02T00:00:00Z", expires_at="2030-01-01T00:00:00Z"),
            "message",
            "not_before is not before expires_at",
        ),
        (wire(hops=-1), "hops", "greater than or equal to 0"),
        (wire(hops=10**30), "hops", "less than or equal"),
        (wire(hops=1.5), "hops", "valid integer"),
        (wire(conversation="a b"), "conversation", "match pattern"),
        (wire(metadata=[]), "metadata", "valid dictionary"),
        (wire(metadata={"a": "x" * MAX_METADATA_BYTES}), "metadata", f"more than {MAX_METADATA_BYTES} bytes"),
        (wire(extra="x" * MAX_METADATA_BYTES), "unknown fields", f"more than {MAX_METADATA_BYTES} bytes"),
        (wire(trace={"traceparent": "00-zz"}), "trace.traceparent", "match pattern"),
        (wire(schema_version=2), "schema_version", "reads 1"),
        (wire(schema_version="1"), "schema_version", "reads 1"),
        (wire(schema_version=None), "schema_version", "reads 1"),
        (wire(schema_version={"major": 1}), "schema_version", "reads 1"),
    ],
)
def test_what_is_wrong_is_refused_with_where_and_what(raw: bytes, where: str, words: str) -> None:
    refusal = refused(raw)

    assert refusal.where == where
    assert words in str(refusal)
    assert refusal.cause is Cause.INVALID


@pytest.mark.parametrize("depth", [33, 500, 900, 990, 1_000, DEEP])
@pytest.mark.parametrize(
    ("open_", "close"),
    [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")],
    ids=["lists", "dicts", "both"],
)
def test_no_nesting_is_too_deep_to_be_refused(depth: int, open_: bytes, close: bytes) -> None:
    nested = open_ * depth + b"1" + close * depth

    for raw in (nested, b'{"to":{"agent":"x"},"content":"y","metadata":{"a":' + nested + b"}}", open_ * depth):
        assert refused(raw).where == "message"


def test_as_much_nesting_as_is_allowed_passes() -> None:
    nested: Any = 1
    for _ in range(door.MAX_DEPTH - 1):
        nested = [nested]
    assert door.read(ACME, wire(extra=nested)).model_extra == {"extra": nested}

    assert "nested deeper" in str(refused(wire(extra=[nested])))


@pytest.mark.parametrize("letter", ["x", "é", "漢", "🎈", "\x01", '"', "\\"])
@pytest.mark.parametrize("escape", [True, False])
def test_content_is_bounded_in_bytes_however_it_was_escaped(letter: str, *, escape: bool) -> None:
    """256 KiB pass and one byte more does not, whatever a producer's JSON library makes of the letters."""
    fits = letter * (MAX_CONTENT_BYTES // len(letter.encode()))
    fits += "x" * (MAX_CONTENT_BYTES - len(fits.encode()))

    def dumped(content: str) -> bytes:
        return json.dumps({**GOOD, "content": content}, ensure_ascii=escape).encode()

    assert door.read(ACME, dumped(fits)).content == fits
    assert refused(dumped(fits + "x")).where == "content"


def test_ten_megabytes_are_refused_without_being_read() -> None:
    refusal = refused(b"{" + b"x" * 10_000_000)

    assert refusal.where == "message"
    assert "bytes, more than" in str(refusal)


def test_text_is_measured_in_bytes_too() -> None:
    assert "bytes, more than" in str(refused("漢" * (door.MAX_ENTRY_BYTES // 3 + 2)))


@pytest.mark.parametrize("said", ["globex", "", "ACME", "acme ", "acme\n", "ac\u200bme", "\u0430cme", 7, ["acme"], {}])
def test_an_envelope_that_names_another_tenant_is_refused_as_such(said: object) -> None:
    refusal = refused(wire(tenant=said))

    assert (refusal.where, refusal.cause) == ("tenant", Cause.TENANT_MISMATCH)


@pytest.mark.parametrize("said", ["acme", None])
def test_an_envelope_may_name_its_own_tenant(said: str | None) -> None:
    assert in_short(door.read(ACME, wire(tenant=said)).to) == "researcher"


@pytest.mark.parametrize(
    ("raw", "where", "cause"),
    [
        (b'{"tenant":"acme","tenant":"globex"}', "tenant", Cause.TENANT_MISMATCH),
        (b'{"tenant":"acme","tenant":"acme"}', "tenant", Cause.TENANT_MISMATCH),
        (b'{"ten\\u0061nt":"acme","tenant":"globex"}', "tenant", Cause.TENANT_MISMATCH),
        (b'{"metadata":{"tenant":1,"tenant":2}}', "tenant", Cause.TENANT_MISMATCH),
        (b'{"to":{"agent":"a"},"to":{"agent":"b"}}', "to", Cause.INVALID),
        (b'{"to":{"agent":"a","agent":"b"},"content":"x"}', "agent", Cause.INVALID),
        (b'{"id":"a","id":"b","content":1}', "id", Cause.INVALID),
    ],
)
def test_no_key_stands_twice(raw: bytes, where: str, cause: Cause) -> None:
    """Two readers may pick different ones of two equal keys (FAULTS.md, attack 1)."""
    refusal = refused(raw)

    assert (refusal.where, refusal.cause, str(refusal)) == (where, cause, f"{where}: stands twice")


@pytest.mark.parametrize(
    "fields",
    [
        {"content": CANARY + "\x00"},
        {"content": [CANARY]},
        {"to": CANARY},
        {"to": {"agent": CANARY + "\n"}},
        {"to": {"agent": [CANARY]}},
        {"id": CANARY + "!"},
        {"tenant": CANARY},
        {"kind": CANARY},
        {"priority": CANARY},
        {"ttl": CANARY},
        {"expires_at": CANARY},
        {"schema_version": CANARY},
        {"hops": CANARY},
        {"metadata": CANARY},
        {"metadata": {"a": [CANARY] * 10_000}},
        {"trace": {"traceparent": CANARY}},
        {"conversation": CANARY + " "},
    ],
)
def test_a_refusal_never_quotes_what_was_said(fields: dict[str, object]) -> None:
    """The words go to logs, receipts and dead letters of whoever looks."""
    assert CANARY not in str(refused(wire(**fields)))


@pytest.mark.parametrize("raw", [CANARY.encode(), b'{"content":"' + CANARY.encode(), b"{" + CANARY.encode() + b":1}"])
def test_a_refusal_of_what_is_no_json_never_quotes_it(raw: bytes) -> None:
    assert CANARY not in str(refused(raw))


def test_the_id_of_a_bad_envelope_is_told_where_it_can_be_one() -> None:
    assert refused(wire(id="m-1", content=1)).message_id == "m-1"
    assert refused(wire(id="no good", content=1)).message_id is None
    assert refused(wire(id=["m-1"], content=1)).message_id is None
    assert refused(b"[]").message_id is None


def test_several_wrongs_are_counted() -> None:
    assert "(and 2 more)" in str(refused(wire(content=1, hops=-1, kind="x")))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("field", ["metadata", "ttl", "extra"])
def test_a_document_from_python_is_held_to_what_json_can_say(value: float, field: str) -> None:
    """Or it would be accepted here and refused by the dispatcher."""
    said = {"a": value} if field == "metadata" else value

    with pytest.raises(door.Refusal):
        door.check(ACME, {**GOOD, field: said})


def test_a_document_from_python_that_contains_itself_is_too_deep() -> None:
    loop: list[Any] = []
    loop.append(loop)

    with pytest.raises(door.Refusal, match="nested deeper"):
        door.check(ACME, {**GOOD, "extra": loop})


@pytest.mark.parametrize("value", [object(), {1, 2}, b"\xff", 1j, (1, object()), {1: {2: object()}}])
def test_a_document_from_python_holds_nothing_that_json_cannot(value: object) -> None:
    with pytest.raises(door.Refusal):
        door.check(ACME, {**GOOD, "extra": value})


def agree(raw: bytes) -> None:
    """The one property of the door: an envelope that reads the same again, or a refusal."""
    began = time.monotonic()
    try:
        found = door.read(ACME, raw)
    except door.Refusal as refusal:
        str(refusal).encode()
    else:
        found.expires_at_ms(1_800_000_000_000)
        found.not_before_ms()
        stored = found.to_wire()
        assert Envelope.model_validate_json(stored).digest() == found.digest()
        assert door.read(ACME, stored.encode()).digest() == found.digest()
    assert time.monotonic() - began < 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from([*Envelope.model_fields, "tenant", "extra", "", "\ud800", "__class__"])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_envelope_or_a_refusal(raw: bytes) -> None:
    agree(raw)


@settings(max_examples=400, deadline=None)
@given(fields=st.dictionaries(FIELDS, JSON, max_size=5), good=st.booleans())
def test_any_fields_are_an_envelope_or_a_refusal(fields: dict[str, Any], *, good: bool) -> None:
    agree(json.dumps({**(GOOD if good else {}), **fields}).encode())


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_good_envelope_with_bytes_changed_is_an_envelope_or_a_refusal(data: st.DataObject) -> None:
    raw = bytearray(
        wire(id="m-1", ttl=5, metadata={"a": [1, 2.5e3, "é"]}, hops=2, not_before="2030-01-01T00:00:00Z", x=1)
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        piece = data.draw(st.binary(max_size=3) | st.sampled_from([b"\\ud800", b"1e999", b'"', b"{", b"]", b"\x00"]))
        raw[at : at + data.draw(st.integers(0, 4))] = piece
    agree(bytes(raw))
