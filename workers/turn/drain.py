"""A drain: empties a tenant's ready mailboxes for a bounded time, as many turns at once as it has slots.

It takes again as its turns end, until there is nothing more or its time is over; then the tenant's next drain
queues behind the other tenants'. The turns it began run on by themselves: arq's queue holds no long jobs.
"""

import asyncio
from dataclasses import dataclass, field, replace

from pydantic import ValidationError

from schemas.context import Context
from schemas.delivery import Cause, State, Taken
from schemas.envelope import Envelope
from schemas.newer import stored_by_a_newer
from workers.broker.client import REDIS_AWAY
from workers.broker.results import Settlement, TakenBatch
from workers.broker.rules import SUSPECT_PAUSE_MS, Pool, Rules
from workers.failpoints import Point, hit
from workers.mailbox.leases import Keeper
from workers.mailbox.ring import Bells
from workers.mailbox.settle import Settler
from workers.mailbox.sweep import Sweeper
from workers.patience import Patience
from workers.resources import Resources
from workers.settings import LEASE_SECONDS
from workers.turn.run import Turn, TurnRunner
from workers.turn.slots import Slots

ALONE_SECONDS = 0.05
"""What may take the worker down waits so long, until others like it are given back."""
MAX_CRASHES = Rules().max_crashes
SLICE_SECONDS = 0.5
"""How long a drain takes before others have their turn."""
LEFT_MS = 1_000
"""How long a delivery that is left for a newer worker rests before somebody takes it again."""


@dataclass(frozen=True, slots=True)
class Hands:
    """What every drain of a process shares."""

    resources: Resources
    runner: TurnRunner
    keeper: Keeper
    settler: Settler
    bells: Bells
    sweeper: Sweeper
    patience: Patience
    """With deliveries that only a newer worker can read."""
    suspects: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the one delivery of this process that may have taken workers down."""


class Drain:
    """One drain of one tenant in one pool."""

    def __init__(self, context: Context, slots: Slots, hands: Hands, running: set[asyncio.Task[None]]) -> None:
        self._context = context
        self._pool: Pool = slots.pool
        self._slots = slots
        self._hands = hands
        self._running = running
        """Every turn of this pool, whichever drain began it."""
        self._turns: set[asyncio.Task[None]] = set()
        self._taking = True
        self._settled_quietly = False

    async def run(self, stopping: asyncio.Event) -> None:
        """Takes for its slice of time."""
        clock = self._hands.resources.clock
        over_at = clock.monotonic() + SLICE_SECONDS
        more = True
        try:
            while not stopping.is_set() and clock.monotonic() < over_at:
                granted = self._slots.grant(self._context)
                if granted == 0:
                    await self._slots.changed(over_at - clock.monotonic())
                    continue
                more = await self._take(granted)
                if more:
                    # Let the turns just begun run: with free slots there may be room for the next batch at once.
                    await asyncio.sleep(0)
                    continue
                if self._turns:
                    left = over_at - clock.monotonic()
                    await asyncio.wait(self._turns, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                elif not self._settled_quietly:
                    break
        finally:
            self._taking = False
        await self._leave(more)

    async def _leave(self, more: bool) -> None:  # noqa: FBT001  # what the last take said
        """Whatever is left, somebody comes for it."""
        if more:
            await self._hands.bells.hand_on(self._context, self._pool)
        elif self._settled_quietly:
            await self._hands.sweeper.look(self._context.tenant)

    async def _take(self, granted: int) -> bool:
        resources = self._hands.resources
        asked_at = resources.clock.monotonic()
        batch = TakenBatch(0, more=False, next_look_ms=0, taken=())
        self._settled_quietly = False
        try:
            batch = await resources.scripts.take(
                self._context,
                owner=resources.process_id,
                pool=self._pool,
                limit=granted,
                lease_ms=int(LEASE_SECONDS * 1000),
            )
        finally:
            self._slots.hand_back(self._context, granted - len(batch.taken))
        if batch.taken and not batch.confirmed:
            # They go on: who wants them to stop says min-replicas-to-write (docs/decisions/0016).
            resources.log.of(self._context).warning("taken without enough replicas", count=len(batch.taken))
        for taken in batch.taken:
            task = asyncio.create_task(self._one(taken, batch.now_ms, asked_at), name=f"turn {taken.id}")
            self._hands.keeper.hold(self._context, taken, task, asked_at=asked_at)
            for group in (self._turns, self._running):
                group.add(task)
                task.add_done_callback(group.discard)
        if not batch.more:
            await self._hands.bells.note(self._context, batch.next_look_ms)
        return batch.more

    async def _one(self, taken: Taken, now_ms: int, asked_at: float) -> None:
        log = self._hands.resources.log.of(self._context)
        try:
            hit(Point.AFTER_TAKE)
            settlement = await self._settlement(taken, now_ms, asked_at)
            hit(Point.BEFORE_SETTLE)
            rings = not self._taking
            result = await self._hands.settler.settle(self._context, settlement, rings=rings)
            hit(Point.AFTER_SETTLE)
            if not rings:
                await self._settled()
            log.info(
                "settled",
                delivery=taken.id,
                agent=taken.agent,
                state=settlement.state,
                cause=settlement.cause,
                attempt=taken.attempt,
                result=result,
            )
            if result == "parked":
                log.warning("agent parked", agent=taken.agent, delivery=taken.id, cause=settlement.cause)
        except asyncio.CancelledError:
            # The lease is lost, or the process ends: the delivery is somebody else's, or soon will be.
            log.warning("turn cut", delivery=taken.id, agent=taken.agent)
        except REDIS_AWAY as error:
            # It is settled; whoever is behind it is found by the next look at everybody.
            log.warning("ring failed", delivery=taken.id, error_type=type(error).__name__)
        except Exception:
            # A bug of ours. The lease runs out, and the delivery is taken back (HAZARDS.md A7).
            log.exception("settlement failed", delivery=taken.id)
        finally:
            self._hands.keeper.release(self._context, taken)
            self._slots.release(self._context)

    async def _settled(self) -> None:
        """After a settlement that rang nobody, because this drain was about to take again."""
        if self._taking:
            self._settled_quietly = True
        else:
            await self._hands.sweeper.look(self._context.tenant)

    async def _settlement(self, taken: Taken, now_ms: int, asked_at: float) -> Settlement:
        try:
            envelope = Envelope.model_validate_json(taken.envelope)
        except ValidationError as error:
            return self._unreadable(taken, error)
        turn = Turn(self._context, taken, envelope, now_ms, asked_at)
        if not taken.is_suspect(MAX_CRASHES):
            return await self._hands.runner.run(turn)
        alone = self._hands.suspects
        if alone.locked():
            # Another tenant's: were both here when the worker dies, one would be taken for the poison.
            detail = "another that workers fell silent over has its turn"
            waiting = Settlement(taken.id, taken.agent, taken.token, State.WAITING, Cause.SUSPECT, detail)
            return replace(waiting, due_in_ms=SUSPECT_PAUSE_MS, refund=True, fate_open=taken.fate_open)
        async with alone:
            await self._hands.resources.clock.sleep(ALONE_SECONDS)
            return await self._hands.runner.run(turn)

    def _unreadable(self, taken: Taken, error: ValidationError) -> Settlement:
        """What a newer dispatcher moved, a newer worker can read; else a hand in Redis spoiled it after the door."""
        state, cause, detail = State.DEAD, Cause.INVALID, "the stored envelope cannot be read"
        if stored_by_a_newer(taken.envelope, error):
            if not self._hands.patience.is_over(taken.id):
                waits = "it is left for a newer worker"
                left = Settlement(taken.id, taken.agent, taken.token, State.WAITING, Cause.NEWER, waits)
                return replace(left, due_in_ms=LEFT_MS, refund=True, fate_open=taken.fate_open)
            cause, detail = Cause.NEWER, "the stored envelope is of a newer version, and no newer worker took it"
        return Settlement(taken.id, taken.agent, taken.token, state, cause, detail)
