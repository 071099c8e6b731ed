"""Addresses: which forms there are, and what is said of those that are none."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from schemas.address import (
    AgentAddress,
    QueueAddress,
    ReplyTo,
    SelectorAddress,
    StreamAddress,
    TeamAddress,
    To,
    in_short,
)

TO: TypeAdapter[Any] = TypeAdapter(To)
REPLY_TO: TypeAdapter[Any] = TypeAdapter(ReplyTo)


@pytest.mark.parametrize(
    ("document", "address", "short"),
    [
        ({"agent": "a"}, AgentAddress(agent="a"), "a"),
        ({"team": "t"}, TeamAddress(team="t"), "team t"),
        ({"team": "t", "role": "writer"}, TeamAddress(team="t", role="writer"), "team t, role writer"),
        ({"tags": ["role:x", "env:y"]}, SelectorAddress(tags=("role:x", "env:y")), "role:x env:y"),
        ({"name": "support-*"}, SelectorAddress(name="support-*"), "support-*"),
        ({"tags": ["env:y"], "name": "s*"}, SelectorAddress(tags=("env:y",), name="s*"), "env:y s*"),
    ],
)
def test_an_address_is_told_by_its_fields(document: dict[str, Any], address: Any, short: str) -> None:
    assert TO.validate_python(document) == address
    assert TO.validate_python(address) == address
    assert TO.validate_json(TO.dump_json(address)) == address
    assert in_short(address) == short


@pytest.mark.parametrize(
    ("document", "address", "short"),
    [
        ({"stream": "crm"}, StreamAddress(stream="crm"), "stream crm"),
        ({"queue": "jobs"}, QueueAddress(queue="jobs"), "queue jobs"),
        ({"team": "t"}, TeamAddress(team="t"), "team t"),
        ({"agent": "a"}, AgentAddress(agent="a"), "a"),
    ],
)
def test_a_reply_may_go_outside_the_mailboxes(document: dict[str, Any], address: Any, short: str) -> None:
    assert REPLY_TO.validate_python(document) == address
    assert in_short(address) == short


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"stream": "s"},
        {"role": "writer"},
        {"agent": "a", "team": "t"},
        {"agent": "a", "tags": ["x"]},
        {"team": "t", "tags": ["x"]},
        {"team": "a b"},
        {"team": "{x}"},
        {"tags": []},
        {"tags": ["a"] * 21},
        {"tags": [""]},
        {"name": ""},
        {"name": "a", "at_most": 0},
        {"name": "a", "at_most": 100_001},
        "a",
        None,
    ],
)
def test_what_is_no_address_is_refused(document: Any) -> None:
    with pytest.raises(ValidationError):
        TO.validate_python(document)


@pytest.mark.parametrize("document", [{"tags": ["x"]}, {"name": "x*"}, {"stream": "a:b"}, {"queue": ""}])
def test_a_reply_goes_to_no_selector_and_to_no_odd_name(document: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        REPLY_TO.validate_python(document)


@pytest.mark.parametrize(
    ("document", "unscoped"),
    [
        ({"name": "*"}, True),
        ({"name": "**"}, True),
        ({"tags": ["tenant:acme"]}, True),
        ({"tags": ["tenant:acme"], "name": "*"}, True),
        ({"name": "a*"}, False),
        ({"name": "?"}, False),
        ({"tags": ["role:x"]}, False),
        ({"tags": ["tenant:acme"], "name": "a"}, False),
        ({"tags": ["tenant:globex"]}, False),
    ],
)
def test_a_selector_that_narrows_nothing_is_unscoped(document: dict[str, Any], unscoped: bool) -> None:  # noqa: FBT001
    assert SelectorAddress.model_validate(document).is_unscoped(own_tag="tenant:acme") is unscoped
