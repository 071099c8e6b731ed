"""May it go now? Each rule alone, and the order in which they are asked."""

from typing import Any

import pytest

from schemas.delivery import Cause
from schemas.verdict import Allow, Drop, Verdict, Wait
from tests.support.builders import ACME, agent, envelope, taken
from workers.broker.rules import CALL_WITHIN_MS, WINDOW_PAD_MS
from workers.policies.chain import ORDER, judge
from workers.policies.contract import Facts
from workers.policies.expiry import expiry
from workers.policies.freshness import LEASE_MARGIN_MS, freshness
from workers.policies.hops import hops
from workers.policies.ownership import ownership

NOW = 1_800_000_000_000


def facts(**known: Any) -> Facts:
    expires_at_ms = known.pop("expires_at_ms", None)
    given = {
        "context": ACME,
        "taken": taken(expires_at_ms=expires_at_ms),
        "envelope": envelope(hops=known.pop("hops", 0)),
        "agent": agent(),
        "now_ms": NOW,
        "since_taken_ms": 0,
        "lease_left_ms": 15_000,
    }
    return Facts(**{**given, **known})


@pytest.mark.parametrize(
    ("expires_at_ms", "verdict"),
    [(None, Allow()), (NOW + 1, Allow()), (NOW, Drop(Cause.TTL)), (NOW - 1, Drop(Cause.TTL))],
)
def test_nothing_starts_at_or_after_its_expiry(expires_at_ms: int | None, verdict: Verdict) -> None:
    assert expiry(facts(expires_at_ms=expires_at_ms)) == verdict


@pytest.mark.parametrize(("count", "goes"), [(0, True), (7, True), (8, False), (9, False), (1000, False)])
def test_a_chain_ends_at_the_hop_limit(count: int, *, goes: bool) -> None:
    verdict = hops(facts(hops=count))

    assert isinstance(verdict, Allow) is goes
    if isinstance(verdict, Drop):
        assert verdict.cause is Cause.LOOP
        assert str(count) in verdict.detail


def test_an_agent_that_is_gone_or_anothers_is_unknown_in_the_same_words() -> None:
    assert ownership(facts()) == Allow()
    assert ownership(facts(agent=None)) == Drop(Cause.UNKNOWN_AGENT, "the tenant has no such agent (any more)")


@pytest.mark.parametrize(
    ("since_ms", "left_ms", "goes"),
    [
        (0, 15_000, True),
        (CALL_WITHIN_MS, 15_000, True),
        (CALL_WITHIN_MS + 1, 15_000, False),
        (0, LEASE_MARGIN_MS, True),
        (0, LEASE_MARGIN_MS - 1, False),
        (0, 0, False),
    ],
)
def test_what_was_taken_too_long_ago_goes_back_at_once(since_ms: int, left_ms: int, *, goes: bool) -> None:
    verdict = freshness(facts(since_taken_ms=since_ms, lease_left_ms=left_ms))

    assert isinstance(verdict, Allow) is goes
    if isinstance(verdict, Wait):
        assert (verdict.for_ms, verdict.cause) == (0, Cause.RETURNED)


def test_the_windows_are_longer_than_a_call_may_come_late() -> None:
    assert CALL_WITHIN_MS < WINDOW_PAD_MS


def test_all_good_is_allowed() -> None:
    assert judge(facts()) == Allow()


def test_the_order_is_the_tuple_and_the_first_that_objects_wins() -> None:
    """What ends a delivery comes before what sends it back: a dead message must not go round."""
    assert (ownership, hops, expiry, freshness) == ORDER
    bad: dict[str, Any] = {"agent": None, "hops": 8, "expires_at_ms": NOW, "since_taken_ms": 9_999}
    expected = [Cause.UNKNOWN_AGENT, Cause.LOOP, Cause.TTL, Cause.RETURNED]
    for cause, name in zip(expected, list(bad), strict=True):
        verdict = judge(facts(**bad))
        assert isinstance(verdict, Drop | Wait)
        assert verdict.cause is cause
        del bad[name]
