"""Each way in which a turn can end, and each word of the policies, becomes exactly one settlement."""

import random

import pytest

from schemas.address import AgentAddress, TeamAddress, in_short
from schemas.context import TraceContext
from schemas.delivery import Cause, State
from schemas.envelope import CUT, MAX_CONTENT_BYTES, Envelope, Kind, OnUnknown, Priority, fitting
from schemas.ids import reply_id_of
from schemas.outcome import (
    AwaitsApproval,
    BrokenHistory,
    Busy,
    Failed,
    FateUnknown,
    Outcome,
    Rejected,
    Replied,
    Throttled,
    Trouble,
    Usage,
)
from schemas.verdict import Drop, Wait
from tests.support.builders import ACME, AGENT, envelope, settings, taken
from workers.broker.results import Settlement
from workers.bus import door
from workers.turn.settlement import APPROVAL_MS, Ending, reply_envelope

SEEDS = range(40)
TRACE = TraceContext("00-" + "a" * 32 + "-" + "b" * 16 + "-01", "vendor=1")


def ending(seed: int = 1, **overrides: object) -> Ending:
    return Ending(settings(max_attempts=3, **overrides), random.Random(seed))


def after(outcome: Outcome, *, seed: int = 1, said: Envelope | None = None, **fields: object) -> Settlement:
    return ending(seed).of_outcome(taken(**fields), said or envelope(), outcome, TRACE)


def settlement(state: State, cause: Cause, detail: str = "", **more: object) -> Settlement:
    return Settlement("m1:1", AGENT, 1, state, cause, detail, **more)  # type: ignore[arg-type]


def test_a_reply_is_delivered_with_all_that_the_receipt_tells() -> None:
    found = after(Replied("hello back", "end_turn", "run-7", Usage(3, 4, 7, 1)))

    assert found == settlement(
        State.DELIVERED,
        Cause.REPLIED,
        run_id="run-7",
        reply="hello back",
        stop_reason="end_turn",
        total_tokens=7,
    )


@pytest.mark.parametrize("text", ["", " \n", "\x00"])
def test_an_empty_reply_is_delivered_too_and_says_why_it_is_empty(text: str) -> None:
    found = after(Replied(text, "max_steps", None), said=envelope(reply_to={"agent": "writer"}))

    assert (found.state, found.detail) == (State.DELIVERED, "the reply is empty: the turn ended by max_steps")
    assert (found.forward_id, found.forward_envelope, found.run_id) == ("", "", "")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_busy_agent_waits_about_two_seconds_at_no_cost(seed: int) -> None:
    found = after(Busy("another request runs"), seed=seed)

    assert 1_500 <= found.hold_ms <= 2_500
    assert found == settlement(
        State.WAITING, Cause.BUSY, "another request runs", hold="agent", hold_ms=found.hold_ms, refund=True
    )


def test_an_agent_that_awaits_approval_is_parked_at_no_cost() -> None:
    assert after(AwaitsApproval("a tool")) == settlement(
        State.WAITING, Cause.APPROVAL, "a tool", hold="agent", hold_ms=APPROVAL_MS, refund=True
    )


def test_a_broken_history_parks_the_agent_and_the_message_waits_unspent() -> None:
    assert after(BrokenHistory("400 said the model")) == settlement(
        State.WAITING, Cause.PARKED, "400 said the model", hold="parked", refund=True
    )


@pytest.mark.parametrize(("whole_tenant", "scope"), [(True, "tenant"), (False, "agent")])
def test_a_quota_pauses_what_it_names_for_as_long_as_it_says(*, whole_tenant: bool, scope: str) -> None:
    assert after(Throttled("quota", 7_000, whole_tenant)) == settlement(
        State.WAITING, Cause.THROTTLED, "quota", hold=scope, hold_ms=7_000, refund=True
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_a_quota_that_says_nothing_pauses_about_five_seconds(seed: int) -> None:
    assert 3_750 <= after(Throttled("quota", None, False), seed=seed).hold_ms <= 6_250


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("attempt", "least", "most"), [(1, 100, 1_000), (2, 200, 2_000)])
def test_a_failure_backs_off_longer_each_time_and_costs_its_attempt(
    seed: int, attempt: int, least: int, most: int
) -> None:
    found = after(Failed("500"), seed=seed, attempt=attempt)

    assert least <= found.due_in_ms <= most
    assert found == settlement(State.WAITING, Cause.BACKOFF, "500", due_in_ms=found.due_in_ms)


def test_a_failure_waits_as_long_as_the_server_asked() -> None:
    assert after(Failed("503", retry_after_ms=90_000)).due_in_ms == 90_000


@pytest.mark.parametrize("attempt", [3, 4])
def test_the_last_attempt_that_fails_ends_as_a_dead_letter(attempt: int) -> None:
    assert after(Failed("500"), attempt=attempt) == settlement(State.DEAD, Cause.ATTEMPTS, "500")


@pytest.mark.parametrize("attempt", [1, 3, 99])
def test_a_server_that_is_away_costs_no_attempt_however_many_there_were(attempt: int) -> None:
    found = after(Failed("refused", counts=False), attempt=attempt)

    assert 1_500 <= found.hold_ms <= 2_500
    assert (found.state, found.cause, found.hold, found.refund) == (State.WAITING, Cause.BACKOFF, "agent", True)
    assert after(Failed("503", retry_after_ms=60_000, counts=False)).hold_ms == 60_000


def test_what_waits_for_the_server_says_so() -> None:
    found = after(Failed("not sent: refused", counts=False, trouble=Trouble.AWAY), attempt=3)

    assert (found.cause, found.hold, found.refund) == (Cause.SERVER_AWAY, "agent", True)
    assert found.hold_ms <= 2_500


@pytest.mark.parametrize("counts", [True, False])
def test_a_cut_that_is_the_servers_doing_costs_no_attempt_and_its_fate_stays_open(*, counts: bool) -> None:
    found = after(FateUnknown("reset", counts=counts))

    assert (found.cause, found.fate_open, found.refund) == (Cause.LOOKING, True, not counts)


@pytest.mark.parametrize(
    ("cause", "state"),
    [(Cause.UNKNOWN_AGENT, State.REFUSED), (Cause.REJECTED, State.DEAD), (Cause.INVALID, State.DEAD)],
)
def test_what_cannot_help_to_try_again_ends_at_once(cause: Cause, state: State) -> None:
    assert after(Rejected(cause, "no")) == settlement(state, cause, "no")


def test_a_call_that_was_cut_is_looked_for_soon_and_its_fate_stays_open() -> None:
    assert after(FateUnknown("reset", "run-3")) == settlement(
        State.WAITING, Cause.LOOKING, "reset", due_in_ms=1_000, fate_open=True, run_id="run-3"
    )


@pytest.mark.parametrize(
    "outcome", [Busy("b"), AwaitsApproval("a"), Throttled("t", 1, whole_tenant=False), Failed("f")]
)
def test_every_other_outcome_closes_the_fate(outcome: Outcome) -> None:
    assert not after(outcome, fate_open=True, run_id="run-1").fate_open


def test_a_policy_that_waits_costs_nothing_and_closes_the_fate() -> None:
    assert ending().of_verdict(taken(), Wait(250, Cause.RETURNED, "late")) == settlement(
        State.WAITING, Cause.RETURNED, "late", due_in_ms=250, refund=True
    )


@pytest.mark.parametrize(
    ("cause", "state"),
    [(Cause.TTL, State.EXPIRED), (Cause.LOOP, State.REFUSED), (Cause.UNKNOWN_AGENT, State.REFUSED)],
)
def test_a_policy_that_drops_ends_it(cause: Cause, state: State) -> None:
    assert ending().of_verdict(taken(), Drop(cause, "why")) == settlement(state, cause, "why")


@pytest.mark.parametrize("seed", SEEDS)
def test_looking_again_costs_nothing_and_remembers_the_run(seed: int) -> None:
    found = ending(seed).look_again(taken(), "still running", "run-9")

    assert 1_500 <= found.due_in_ms <= 2_500
    assert found == settlement(
        State.WAITING,
        Cause.LOOKING,
        "still running",
        due_in_ms=found.due_in_ms,
        refund=True,
        fate_open=True,
        run_id="run-9",
    )


@pytest.mark.parametrize(("open_for_ms", "least", "most"), [(20_000, 3_750, 6_250), (300_000, 7_500, 12_500)])
def test_what_has_long_been_open_is_looked_for_less_often(open_for_ms: int, least: int, most: int) -> None:
    """Each look holds a place that other agents' turns need."""
    pauses = [
        ending(seed).look_again(taken(), "still running", "run-9", open_for_ms=open_for_ms).due_in_ms for seed in SEEDS
    ]

    assert all(least <= pause <= most for pause in pauses)


@pytest.mark.parametrize(
    ("choice", "attempt", "expired", "state"),
    [
        (OnUnknown.REDELIVER, 1, False, State.WAITING),
        (OnUnknown.REDELIVER, 2, False, State.WAITING),
        (OnUnknown.REDELIVER, 3, False, State.UNKNOWN),
        (OnUnknown.REDELIVER, 1, True, State.UNKNOWN),
        (OnUnknown.NEVER_RESEND, 1, False, State.UNKNOWN),
        (OnUnknown.NEVER_RESEND, 1, True, State.UNKNOWN),
    ],
)
def test_where_nobody_can_tell_the_sender_chose(
    choice: OnUnknown, attempt: int, *, expired: bool, state: State
) -> None:
    found = ending().cannot_tell(taken(attempt=attempt), envelope(on_unknown=choice), "no runs", expired=expired)

    assert found.state is state
    assert not found.fate_open
    assert not found.refund
    assert found.cause is (Cause.OUTCOME_UNKNOWN if state is State.UNKNOWN else Cause.LOOKING)


def test_details_are_cut() -> None:
    assert len(after(Failed("x" * 10_000)).detail) == 500


def test_a_reply_goes_on_one_hop_further_with_what_ties_it_to_its_cause() -> None:
    said = envelope(
        reply_to={"agent": "writer"},
        priority="high",
        hops=2,
        correlation_id="story-1",
        on_unknown="never_resend",
        content="asked",
    )
    found = after(Replied("an answer", "end_turn", "run-1"), said=said)
    onward = Envelope.model_validate_json(found.forward_envelope)

    assert found.forward_id == onward.id == reply_id_of("m1:1")
    assert found.forward_digest == onward.digest()
    assert onward.kind is Kind.REPLY
    assert in_short(onward.to) == "writer"
    assert (onward.content, onward.sender, onward.hops) == ("an answer", f"agent:{AGENT}", 3)
    assert (onward.correlation_id, onward.causation_id) == ("story-1", "m1")
    assert (onward.priority, onward.on_unknown) == (Priority.HIGH, OnUnknown.NEVER_RESEND)
    assert onward.trace is not None
    assert onward.trace.traceparent == TRACE.traceparent
    assert onward.reply_to is None


@pytest.mark.parametrize("to", [{"team": "editorial"}, {"team": "editorial", "role": "lead"}])
def test_a_reply_to_a_team_is_sent_on_as_a_message_like_any_other(to: dict[str, str]) -> None:
    found = after(Replied("done", "end_turn", "run-1"), said=envelope(reply_to=to))

    onward = Envelope.model_validate_json(found.forward_envelope)
    assert (onward.to, onward.content, onward.kind) == (TeamAddress(**to), "done", Kind.REPLY)
    assert found.forward_id == onward.id == reply_id_of("m1:1")


@pytest.mark.parametrize("to", [{"stream": "crm"}, {"queue": "jobs"}])
def test_a_reply_to_a_reader_that_is_no_agent_is_no_message(to: dict[str, str]) -> None:
    """The script that settles it posts it."""
    found = after(Replied("done", "end_turn", "run-1"), said=envelope(reply_to=to))

    assert (found.reply, found.forward_id, found.forward_envelope) == ("done", "", "")


def test_a_reply_that_is_gathered_is_not_sent_on_alone() -> None:
    said = envelope(to={"team": "editorial"}, reply_to={"agent": "writer"}, gather={"within": 60})

    assert after(Replied("done", "end_turn", "run-1"), said=said).forward_id == ""


def test_a_reply_to_a_root_message_is_correlated_by_that_message() -> None:
    onward = reply_envelope(taken(), envelope(), AgentAddress(agent="w"), "text", None)

    assert (onward.correlation_id, onward.causation_id) == ("m1", "m1")


@pytest.mark.parametrize("letter", ["x", "é", "漢", "🎈"])
@pytest.mark.parametrize("spare", [-5, -1, 0, 1, 2, 3, 50])
def test_a_reply_longer_than_a_message_is_cut_between_letters_with_a_notice(letter: str, spare: int) -> None:
    text = letter * ((MAX_CONTENT_BYTES + spare) // len(letter.encode()) + (spare > 0))
    found = fitting(text)

    assert len(found.encode()) <= MAX_CONTENT_BYTES
    if len(text.encode()) <= MAX_CONTENT_BYTES:
        assert found == text
    else:
        assert found.endswith(CUT)
        assert set(found.removesuffix(CUT)) == {letter}
        assert len(found.encode()) > MAX_CONTENT_BYTES - 4


@pytest.mark.parametrize(
    "text", ["a\x00b", "half \ud83d a pair", "x" * 400_000, "\ud800" * 200_000, "\x01" * MAX_CONTENT_BYTES]
)
def test_whatever_an_agent_says_makes_a_message_that_the_door_lets_in(text: str) -> None:
    """A reply that could not be sent on would be looked for, found, and not be sent on, for ever."""
    found = after(Replied(text, "end_turn", "run-1"), said=envelope(reply_to={"agent": "writer"}))

    assert found.state is State.DELIVERED
    assert in_short(door.read(ACME, found.forward_envelope.encode()).to) == "writer"


@pytest.mark.parametrize("text", [" ", "\n\n", "\x00", "\x00 \t"])
def test_a_blank_reply_is_delivered_and_not_sent_on(text: str) -> None:
    found = after(Replied(text, "end_turn", "run-1"), said=envelope(reply_to={"agent": "writer"}))

    assert (found.state, found.reply, found.forward_id) == (State.DELIVERED, text, "")
