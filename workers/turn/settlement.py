"""From how a turn went to how its delivery is settled: pure, and complete by type."""

from dataclasses import dataclass, replace
from random import Random
from typing import assert_never

from schemas.address import AgentAddress, TeamAddress, To
from schemas.context import TraceContext
from schemas.delivery import Cause, State, Taken
from schemas.envelope import Envelope, Kind, OnUnknown, fitting
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
)
from schemas.verdict import Drop, Wait
from workers.backoff import backoff_ms
from workers.broker.results import Settlement
from workers.settings import Settings
from workers.telemetry import to_envelope

BUSY_MS = 2_000
APPROVAL_MS = 30_000
THROTTLED_MS = 5_000
AWAY_MS = 2_000
LOOK_MS = 1_000
LOOK_AGAIN_MS = 10_000
DETAIL_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Ending:
    """How deliveries come to their end under these settings."""

    settings: Settings
    random: Random

    def of_outcome(  # noqa: PLR0911  # one for each outcome
        self, taken: Taken, envelope: Envelope, outcome: Outcome, trace: TraceContext | None
    ) -> Settlement:
        """After a call."""
        match outcome:
            case Replied():
                return self._replied(taken, envelope, outcome, trace)
            case Busy(detail):
                return self._wait(taken, Cause.BUSY, detail, hold_ms=self._jitter(BUSY_MS))
            case AwaitsApproval(detail):
                return self._wait(taken, Cause.APPROVAL, detail, hold_ms=APPROVAL_MS)
            case Throttled(detail, retry_after_ms, whole_tenant):
                pause = retry_after_ms if retry_after_ms is not None else self._jitter(THROTTLED_MS)
                waiting = self._wait(taken, Cause.THROTTLED, detail, hold_ms=pause)
                return replace(waiting, hold="tenant") if whole_tenant else waiting
            case Failed():
                return self._failed(taken, outcome)
            case Rejected(cause, detail):
                state = State.REFUSED if cause is Cause.UNKNOWN_AGENT else State.DEAD
                return _settle(taken, state, cause, detail)
            case BrokenHistory(detail):
                return replace(_settle(taken, State.WAITING, Cause.PARKED, detail), hold="parked", refund=True)
            case FateUnknown(detail, run_id, counts):
                looking = _settle(taken, State.WAITING, Cause.LOOKING, detail)
                return replace(looking, due_in_ms=LOOK_MS, fate_open=True, run_id=run_id or "", refund=not counts)
            case _:
                assert_never(outcome)

    def of_verdict(self, taken: Taken, verdict: Wait | Drop) -> Settlement:
        """Where a policy let it not go: no call was made."""
        match verdict:
            case Wait(for_ms, cause, detail):
                return replace(_settle(taken, State.WAITING, cause, detail), due_in_ms=for_ms, refund=True)
            case Drop(Cause.TTL, detail):
                return _settle(taken, State.EXPIRED, Cause.TTL, detail)
            case Drop(cause, detail):
                return _settle(taken, State.REFUSED, cause, detail)
            case _:
                assert_never(verdict)

    def look_again(self, taken: Taken, detail: str, run_id: str | None, *, open_for_ms: int = 0) -> Settlement:
        """Not known yet: look again, at no cost; the fate stays open. The longer it has been open, the later."""
        looking = _settle(taken, State.WAITING, Cause.LOOKING, detail)
        pause = self._jitter(min(max(BUSY_MS, open_for_ms // 4), LOOK_AGAIN_MS))
        return replace(looking, due_in_ms=pause, refund=True, fate_open=True, run_id=run_id or "")

    def not_delivered(self, taken: Taken) -> Settlement | None:
        """No call under this epoch began. None: it may be made now; but attempts are bounded."""
        if taken.attempt <= self.settings.max_attempts:
            return None
        return _settle(taken, State.DEAD, Cause.ATTEMPTS, "every call was cut before it began")

    def of_error(self, taken: Taken, envelope: Envelope, *, expired: bool) -> Settlement:
        """After an error of ours, at whatever point: the next attempt looks, as long as there is one."""
        detail = "an error in the worker"
        if taken.attempt > self.settings.max_attempts:
            return self.cannot_tell(taken, envelope, detail, expired=expired)
        return self.of_outcome(taken, envelope, FateUnknown(detail), None)

    def cannot_tell(self, taken: Taken, envelope: Envelope, detail: str, *, expired: bool) -> Settlement:
        """Nobody can say whether the agent got it: the sender's choice decides; never a blind resend."""
        resend = envelope.on_unknown is OnUnknown.REDELIVER and not expired
        if resend and taken.attempt < self.settings.max_attempts:
            return _settle(taken, State.WAITING, Cause.LOOKING, f"will be sent again: {detail}")
        return _settle(taken, State.UNKNOWN, Cause.OUTCOME_UNKNOWN, detail)

    def _failed(self, taken: Taken, failed: Failed) -> Settlement:
        if not failed.counts:
            pause = max(failed.retry_after_ms or 0, self._jitter(AWAY_MS))
            cause = Cause.SERVER_AWAY if failed.trouble is not None else Cause.BACKOFF
            return self._wait(taken, cause, failed.detail, hold_ms=pause)
        if taken.attempt >= self.settings.max_attempts:
            return _settle(taken, State.DEAD, Cause.ATTEMPTS, failed.detail)
        pause = backoff_ms(
            taken.attempt,
            base_ms=int(self.settings.backoff_base_seconds * 1000),
            cap_ms=int(self.settings.backoff_cap_seconds * 1000),
            random=self.random.random,
            retry_after_ms=failed.retry_after_ms,
        )
        waiting = _settle(taken, State.WAITING, Cause.BACKOFF, failed.detail)
        return replace(waiting, due_in_ms=pause)

    def _replied(self, taken: Taken, envelope: Envelope, replied: Replied, trace: TraceContext | None) -> Settlement:
        text = fitting(replied.text)
        detail = "" if text.strip() else f"the reply is empty: the turn ended by {replied.stop_reason}"
        settled = replace(
            _settle(taken, State.DELIVERED, Cause.REPLIED, detail),
            run_id=replied.run_id or "",
            reply=replied.text,
            stop_reason=replied.stop_reason,
            total_tokens=replied.usage.total_tokens,
        )
        # A stream or a queue gets it by the script; what is gathered goes on as one.
        to = envelope.reply_to
        if not isinstance(to, AgentAddress | TeamAddress) or envelope.gather is not None or not text.strip():
            return settled
        reply = reply_envelope(taken, envelope, to, text, trace)
        return replace(
            settled,
            forward_id=reply.id or "",
            forward_digest=reply.digest(),
            forward_envelope=reply.to_wire(),
        )

    def _wait(self, taken: Taken, cause: Cause, detail: str, *, hold_ms: int) -> Settlement:
        """The agent as a whole waits, at no cost."""
        return replace(_settle(taken, State.WAITING, cause, detail), hold="agent", hold_ms=hold_ms, refund=True)

    def _jitter(self, ms: int) -> int:
        return int(ms * self.random.uniform(0.75, 1.25))


def reply_envelope(taken: Taken, envelope: Envelope, to: To, text: str, trace: TraceContext | None) -> Envelope:
    """The reply as a message to `reply_to`: a delivery like any other, one hop further from the root."""
    return Envelope(
        id=reply_id_of(taken.id),
        kind=Kind.REPLY,
        sender=f"agent:{taken.agent}",
        to=to,
        content=text,
        priority=envelope.priority,
        correlation_id=envelope.correlation_id or taken.message_id,
        causation_id=taken.message_id,
        hops=envelope.hops + 1,
        on_unknown=envelope.on_unknown,
        trace=to_envelope(trace),
    )


def _settle(taken: Taken, state: State, cause: Cause, detail: str) -> Settlement:
    return Settlement(taken.id, taken.agent, taken.token, state, cause, detail[:DETAIL_CHARACTERS])
