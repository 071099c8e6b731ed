"""One turn of one agent: look (where an earlier call was cut), judge, call, settle.

Read `run` as the table of contents. What it is given is one frozen record; what comes out is one settlement.
"""

import asyncio
from dataclasses import dataclass
from typing import assert_never

from opentelemetry.trace import SpanKind

from schemas.context import Context
from schemas.delivery import Cause, State, Taken
from schemas.envelope import Envelope
from schemas.outcome import Failed, Outcome, Replied
from schemas.verdict import Allow, Drop, Wait
from workers.broker.client import REDIS_AWAY
from workers.broker.results import Settlement
from workers.directory.agents import Directory
from workers.errors import LettaUnavailableError
from workers.failpoints import Point, hit
from workers.mailbox.leases import Keeper
from workers.policies.chain import judge
from workers.policies.contract import Facts
from workers.resources import Resources
from workers.telemetry import Running, trace_of
from workers.turn.inflight import AdaptiveLimit
from workers.turn.letta.contract import Call, CannotTell, Ended, LettaPort, NotDelivered, StillRunning
from workers.turn.settlement import AWAY_MS, Ending

UNASKABLE: tuple[type[BaseException], ...] = (LettaUnavailableError, *REDIS_AWAY)


@dataclass(frozen=True, slots=True)
class Turn:
    """One delivery under its lease, and when it was taken."""

    context: Context
    taken: Taken
    envelope: Envelope
    taken_now_ms: int
    """Redis' time of the take."""
    asked_at: float
    """Monotonic seconds from before the take was asked for."""


class TurnRunner:
    """Runs turns against one Letta server."""

    def __init__(
        self,
        resources: Resources,
        letta: LettaPort,
        directory: Directory,
        keeper: Keeper,
        limit: AdaptiveLimit,
    ) -> None:
        self._resources = resources
        self._letta = letta
        self._directory = directory
        self._keeper = keeper
        self._limit = limit
        self._ending = Ending(resources.settings, resources.random)

    async def run(self, turn: Turn) -> Settlement:
        """Runs one turn to its settlement. Raises nothing but cancellation."""
        context = turn.context.with_trace(trace_of(turn.envelope.trace)).at_hop(turn.envelope.hops)
        attributes = {
            "message.id": turn.taken.message_id,
            "delivery": turn.taken.id,
            "agent": turn.taken.agent,
        }
        with self._resources.telemetry.span(context, "process delivery", SpanKind.CONSUMER, **attributes) as span:
            try:
                settlement = await self._settlement(turn, context.with_trace(span.trace), span)
            except Exception:  # noqa: BLE001  # a bug of ours must not take the message with it
                self._resources.log.of(context).exception("turn failed", delivery=turn.taken.id)
                settlement = self._ending.of_error(turn.taken, turn.envelope, expired=self._expired(turn))
            span.tell(state=settlement.state, cause=settlement.cause, attempt=turn.taken.attempt)
            return settlement

    async def _settlement(self, turn: Turn, context: Context, span: Running) -> Settlement:
        if turn.taken.fate_open:
            found = await self._look(turn, context, span)
            if found is not None:
                return found
        return await self._judge(turn, context) or await self._call(turn, context, span)

    async def _look(self, turn: Turn, context: Context, span: Running) -> Settlement | None:
        """What became of the call that was cut; None: it never began, so it may begin now."""
        taken = turn.taken
        joined = self._limit.started(age_seconds=(self._now_ms(turn) - taken.opened_at_ms) / 1000)
        try:
            fate = await self._letta.look(context, self._call_of(turn), taken.run_id, taken.opened_at_ms)
        except LettaUnavailableError as error:
            return self._ending.look_again(taken, f"the server cannot be asked: {error}", taken.run_id)
        finally:
            # Who joins a turn waits for its end: a place is taken as by the call that was cut.
            self._limit.ended(joined, counted=False)
        match fate:
            case Ended(outcome):
                return self._settle_outcome(turn, outcome, span)
            case StillRunning(run_id):
                open_for_ms = self._now_ms(turn) - taken.opened_at_ms
                if open_for_ms > 2000 * self._resources.settings.turn_deadline_seconds:
                    detail = f"run {run_id} has neither ended nor failed"
                    return self._ending.cannot_tell(taken, turn.envelope, detail, expired=self._expired(turn))
                detail = "the server still works on it"
                return self._ending.look_again(taken, detail, run_id, open_for_ms=open_for_ms)
            case CannotTell(detail):
                return self._ending.cannot_tell(taken, turn.envelope, detail, expired=self._expired(turn))
            case NotDelivered():
                return self._ending.not_delivered(taken)
            case _:
                assert_never(fate)

    async def _judge(self, turn: Turn, context: Context) -> Settlement | None:
        """The policies' word; None: it may go."""
        try:
            agent = await self._directory.confirm(context, turn.taken.agent, seen_at=turn.asked_at)
        except UNASKABLE as error:
            cause = Cause.SERVER_AWAY if isinstance(error, LettaUnavailableError) else Cause.RETURNED
            waiting = Wait(AWAY_MS, cause, f"the agent cannot be looked up: {type(error).__name__}")
            return self._ending.of_verdict(turn.taken, waiting)
        since_taken_ms = int((self._resources.clock.monotonic() - turn.asked_at) * 1000)
        facts = Facts(
            context=context,
            taken=turn.taken,
            envelope=turn.envelope,
            agent=agent,
            now_ms=turn.taken_now_ms + since_taken_ms,
            since_taken_ms=since_taken_ms,
            lease_left_ms=int(self._keeper.seconds_left(context, turn.taken) * 1000),
        )
        verdict = judge(facts)
        match verdict:
            case Allow():
                return None
            case Wait() | Drop():
                return self._ending.of_verdict(turn.taken, verdict)
            case _:
                assert_never(verdict)

    async def _call(self, turn: Turn, context: Context, span: Running) -> Settlement:
        async def run_named(run_id: str) -> None:
            # In a task of its own: the adapter's deadline must not end inside a Redis call (workers/tasks.py).
            await asyncio.shield(asyncio.create_task(self._record_run(turn, context, run_id)))

        hit(Point.BEFORE_CALL)
        started, counted = self._limit.started(), False
        try:
            outcome = await self._letta.turn(context, self._call_of(turn), run_named)
            counted = isinstance(outcome, Replied)
        finally:
            self._limit.ended(started, counted=counted)
        hit(Point.AFTER_CALL)
        return self._settle_outcome(turn, outcome, span)

    def _settle_outcome(self, turn: Turn, outcome: Outcome, span: Running) -> Settlement:
        span.tell(outcome=type(outcome).__name__)
        settlement = self._ending.of_outcome(turn.taken, turn.envelope, outcome, span.trace)
        if settlement.state is State.REFUSED:
            # The agent is gone: what is remembered of it is stale.
            self._directory.forget(turn.context)
        if self._expired(turn) and isinstance(outcome, Failed):
            return self._ending.of_verdict(turn.taken, Drop(Cause.TTL, settlement.detail))
        return settlement

    async def _record_run(self, turn: Turn, context: Context, run_id: str) -> None:
        taken = turn.taken
        try:
            await self._resources.scripts.record_run(
                context, delivery_id=taken.id, agent=taken.agent, token=taken.token, run_id=run_id
            )
        except REDIS_AWAY:
            # The otid finds the run as well; the settlement stores its id again.
            self._resources.log.of(context).warning("run not stored", delivery=taken.id, run=run_id)

    def _call_of(self, turn: Turn) -> Call:
        taken = turn.taken
        return Call(
            agent=taken.agent,
            content=turn.envelope.content,
            # The server's key is the otid alone, so it must name everything (LETTA.md section 3).
            # A tenant that was deleted and made again is another: the server must not join the old one's turns.
            otid=f"postroom:{turn.context.tenant}:{_part(taken.incarnation)}{taken.id}:{taken.agent}:{taken.epoch}",
            conversation=turn.envelope.conversation,
            deadline_seconds=self._resources.settings.turn_deadline_seconds,
        )

    def _now_ms(self, turn: Turn) -> int:
        return turn.taken_now_ms + int((self._resources.clock.monotonic() - turn.asked_at) * 1000)

    def _expired(self, turn: Turn) -> bool:
        expires_at_ms = turn.taken.expires_at_ms
        return expires_at_ms is not None and self._now_ms(turn) >= expires_at_ms


def _part(incarnation: str) -> str:
    return f"{incarnation}:" if incarnation else ""
