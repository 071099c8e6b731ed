"""Carries what was routed: moves into mailboxes, refusals to the dead letters, and rings for what is ready."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from schemas.context import Context
from workers.broker.results import Move
from workers.dispatch.expand import Expander
from workers.dispatch.route import Bulk, Refused, as_conflict
from workers.failpoints import Point, hit
from workers.ids import new_seed
from workers.mailbox.ring import Bells
from workers.resources import Resources

MOST_AT_ONCE = 256
"""Deliveries made in one step: Redis serves nobody else meanwhile."""
STOPPED = {"lost", "full"}
"""After these nothing behind may be moved: it would overtake."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What became of a batch."""

    lost: bool = False
    """The stream is another dispatcher's: nothing more was changed."""
    full: bool = False
    """The tenant's bytes are used up: some entries stay where they are."""


class Carrier:
    """One for a dispatcher."""

    def __init__(self, resources: Resources, bells: Bells) -> None:
        self._resources = resources
        self._bells = bells
        self._expander = Expander(resources, bells)

    async def carry(self, context: Context, moves: Sequence[Move | Bulk], refusals: Sequence[Refused]) -> Carried:
        """Moves in order, then refuses.

        Raises:
            RedisError, OSError: Redis is away; what was not changed is still on the stream.
        """
        statuses: list[str] = []
        conflicts: list[Refused] = []
        for part in _parts(moves):
            said = (
                [await self._expander.expand(context, part)]
                if isinstance(part, Bulk)
                else await self._move(context, part)
            )
            asked = [part.move] if isinstance(part, Bulk) else part
            conflicts += [
                as_conflict(move) for move, one in zip(asked, said, strict=True) if move and one == "conflict"
            ]
            statuses += said
            if not STOPPED.isdisjoint(said):
                break
        for refused in (*refusals, *conflicts):
            statuses.append(await self._refuse(context, refused))
        return Carried(lost="lost" in statuses, full="full" in statuses)

    async def _move(self, context: Context, moves: Sequence[Move]) -> list[str]:
        seed = new_seed()
        owner = self._resources.process_id
        hit(Point.BEFORE_DISPATCH)
        answers = await self._resources.scripts.dispatch_all(context, owner=owner, moves=moves, seed=seed)
        hit(Point.AFTER_DISPATCH)
        await self._bells.ring(context, [pool for answer in answers for pool in answer.pools], seed)
        await self._bells.note(context, min((one.next_look_ms for one in answers if one.next_look_ms), default=0))
        return [answer.status for answer in answers]

    async def _refuse(self, context: Context, refused: Refused) -> str:
        status = await self._resources.scripts.refuse(
            context,
            owner=self._resources.process_id,
            entry_id=refused.entry_id,
            message_id=refused.message_id,
            cause=refused.cause,
            detail=refused.detail,
            answers=refused.answers,
        )
        self._resources.log.of(context).info("refused", message=refused.message_id, cause=refused.cause, status=status)
        return status


def _parts(moves: Sequence[Move | Bulk]) -> Iterator[list[Move] | Bulk]:
    """In their order: what goes in one step together, and each bulk send by itself."""
    together: list[Move] = []
    number = 0
    for move in moves:
        size = len(move.recipients) if isinstance(move, Move) else MOST_AT_ONCE
        if together and number + size > MOST_AT_ONCE:
            yield together
            together, number = [], 0
        if isinstance(move, Move):
            together.append(move)
            number += size
        else:
            yield move
    if together:
        yield together
