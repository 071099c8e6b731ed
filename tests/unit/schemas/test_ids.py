"""Names: what guards a Redis key or a path lets nothing odd through."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas.context import Context
from schemas.ids import (
    AgentId,
    DeliveryId,
    MessageId,
    TenantId,
    delivery_id,
    is_agent_id,
    is_delivery_id,
    is_message_id,
    is_tenant_id,
    message_id_of_entry,
    message_of,
    reply_id_of,
)

CHECKS = {
    "tenant": (TenantId, is_tenant_id),
    "message": (MessageId, is_message_id),
    "delivery": (DeliveryId, is_delivery_id),
    "agent": (AgentId, is_agent_id),
}
UUID = "00000000-0000-4000-8000-00000000000a"
GOOD = {
    "tenant": ["a", "0", "acme", "acme-2", "a" * 40, "a-"],
    "message": ["a", "Z9", "m1", "a.b_c-d", "m" * 100, "0-0", "x1700000000000-0"],
    "delivery": ["m1:1", "m.1:999999", "m" * 100 + ":0"],
    "agent": [f"agent-{UUID}"],
}
BAD = {
    "tenant": ["", "-a", "A", "a_b", "a.b", "a:b", "a{b", "a}b", "a*", "ä", "a" * 41, "\u0430", "a/b", "\u0661"],
    "message": ["", "-a", ".a", "_a", "a:b", "a/b", "a b", "a{b}", "é", "m" * 101, "a*", "a|b", "../a", "²"],
    "delivery": ["m1", "m1:", ":1", "m1:1:1", "m1:-1", "m1:1234567", "m1:a", "m1:\u0661", "m1: 1"],
    "agent": ["", UUID, f"agent-{UUID.upper()}", f"Agent-{UUID}", "agent-1", f"agent-{UUID}0", f"xagent-{UUID}"],
}
ODD = ["\n", "\r", "\r\n", "\x00", " ", "\t", "\u2028", "\u0085", "\ufeff", "\x1b", "\u200b"]
"""At the end of a name `$` in Python lets a newline through, and `\\Z` does not; fullmatch and pydantic must not."""


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in GOOD.items() for name in names])
def test_a_name_is_a_name(kind: str, name: str) -> None:
    type_, check = CHECKS[kind]
    assert check(name)
    assert TypeAdapter(type_).validate_python(name) == name


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in BAD.items() for name in names])
def test_what_is_no_name_is_refused(kind: str, name: str) -> None:
    type_, check = CHECKS[kind]
    assert not check(name)
    with pytest.raises(ValidationError):
        TypeAdapter(type_).validate_python(name)


@pytest.mark.parametrize("kind", CHECKS)
@pytest.mark.parametrize("odd", ODD, ids=[repr(odd) for odd in ODD])
def test_an_odd_character_is_refused_wherever_it_stands(kind: str, odd: str) -> None:
    type_, check = CHECKS[kind]
    good = GOOD[kind][-1] if kind == "agent" else GOOD[kind][1]
    for name in (good + odd, odd + good, good[:1] + odd + good[1:], odd):
        assert not check(name)
        with pytest.raises(ValidationError):
            TypeAdapter(type_).validate_python(name)
        with pytest.raises(ValidationError):
            TypeAdapter(type_).validate_json(json.dumps(name))


@given(st.text(max_size=12))
def test_the_check_and_the_type_agree(name: str) -> None:
    for type_, check in CHECKS.values():
        try:
            TypeAdapter(type_).validate_python(name)
            accepted = True
        except ValidationError:
            accepted = False
        assert accepted == check(name)


@pytest.mark.parametrize("tenant", ["", "Acme", "acme\n", "a}:x", "*"])
def test_there_is_no_context_of_an_odd_tenant(tenant: str) -> None:
    with pytest.raises(ValueError, match="not a tenant id"):
        Context(tenant=tenant, principal="p")


@given(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z"), st.integers(1, 999_999))
def test_a_delivery_names_its_message(message: str, number: int) -> None:
    one = delivery_id(message, number)
    assert is_delivery_id(one)
    assert message_of(one) == message


@given(st.integers(0, 2**63), st.integers(0, 2**63))
def test_an_entry_without_an_id_gets_the_same_one_each_time(ms: int, number: int) -> None:
    one = message_id_of_entry(f"{ms}-{number}")
    assert is_message_id(one)
    assert one == message_id_of_entry(f"{ms}-{number}")


def test_a_delivery_has_one_reply_and_no_two_share_it() -> None:
    deliveries = [delivery_id(f"m{number}", recipient) for number in range(50) for recipient in (1, 2, 11)]
    replies = {reply_id_of(one) for one in deliveries}
    assert len(replies) == len(deliveries)
    assert all(is_message_id(one) for one in replies)
    assert reply_id_of("m1:1") == reply_id_of("m1:1")


def test_replies_to_replies_do_not_outgrow_a_name() -> None:
    one = delivery_id("m" * 100, 999_999)
    for _ in range(20):
        one = delivery_id(reply_id_of(one), 1)
        assert is_delivery_id(one)
        assert len(one) <= 40
