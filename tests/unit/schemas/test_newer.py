"""What a newer version may have said is told from what is wrong in any version."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from schemas.delivery import Cause, State
from schemas.envelope import Envelope
from schemas.newer import may_be_newer, stored_by_a_newer
from schemas.receipt import Step
from schemas.reply import Reply

GOOD: dict[str, Any] = {"to": {"agent": "researcher"}, "content": "hello"}

NEWER: dict[str, dict[str, Any]] = {
    "version": {"schema_version": 2},
    "version with other fields": {"schema_version": 3, "to": 7, "content": {"parts": []}},
    "kind": {"kind": "survey"},
    "priority": {"priority": "someday"},
    "on_unknown": {"on_unknown": "ask_a_person"},
    "address": {"to": {"skill": "translate"}},
    "address, narrowed": {"to": {"team": "research", "except_agents": ["x"]}},
    "reply_to": {"reply_to": {"webhook": "crm"}},
    "gather": {"to": {"team": "research"}, "gather": {"within": 5, "quorum": 0.5}},
    "several": {"kind": "survey", "to": {"skill": "translate"}, "hints": {"a": 1}},
}
WRONG: dict[str, dict[str, Any]] = {
    "kind is a number": {"kind": 7},
    "kind is no word": {"kind": "Order now!"},
    "version is lower": {"schema_version": 0},
    "version is text": {"schema_version": "2"},
    "no address": {"to": {}},
    "address is text": {"to": "researcher"},
    "address with two forms": {"to": {"agent": "x", "team": "y"}},
    "address of a reader": {"to": {"stream": "crm"}},
    "address by no word": {"to": {"\x00": "y"}},
    "newer and wrong": {"kind": "survey", "content": ""},
    "newer address, wrong content": {"to": {"skill": "translate"}, "content": 5},
}


def error_of(document: dict[str, Any]) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Envelope.model_validate(document)
    return caught.value


@pytest.mark.parametrize("change", NEWER.values(), ids=NEWER)
def test_new_words_may_be_a_newer_versions(change: dict[str, Any]) -> None:
    document = {**GOOD, **change}

    assert may_be_newer(document, error_of(document))
    assert stored_by_a_newer(json.dumps(document).encode(), error_of(document))


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_what_is_wrong_in_any_version_is_no_newer_versions(change: dict[str, Any]) -> None:
    document = {**GOOD, **change}

    assert not may_be_newer(document, error_of(document))


@pytest.mark.parametrize("raw", [None, b"", b"[]", b"7", b"[" * 100_000, b"\xff"])
def test_what_is_no_object_is_no_newer_versions(raw: bytes | None) -> None:
    assert not stored_by_a_newer(raw, error_of({}))


def test_a_cause_that_a_newer_version_wrote_down_is_read_as_it_stands() -> None:
    step = Step(at_ms=1, state=State.REFUSED, cause=Cause("over_budget"))
    reply = {"id": "m1", "message_id": "m1", "state": "refused", "at_ms": 1, "correlation_id": "m1"}

    assert json.loads(step.model_dump_json())["cause"] == "over_budget"
    assert Step.model_validate_json(step.model_dump_json()) == step
    assert Reply.model_validate_json(json.dumps({**reply, "cause": "over_budget"})).cause == "over_budget"
    assert Cause("over_budget") not in set(Cause)


@pytest.mark.parametrize("text", ["", "Over budget", "a\nb", "x" * 65])
def test_what_is_no_word_is_no_cause(text: str) -> None:
    with pytest.raises(ValueError, match="not a valid Cause"):
        Cause(text)
