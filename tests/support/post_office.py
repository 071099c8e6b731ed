"""The dispatcher's and the workers' steps by hand, over real envelopes, on a clock that stands still."""

import json
from typing import Any

from schemas.agent import Agent
from schemas.delivery import Cause, State, Taken
from schemas.envelope import Envelope
from schemas.outcome import Replied
from tests.support.ledger import OWNER, Ledger
from workers.broker.results import Settlement
from workers.broker.rules import Pool
from workers.bus.replies import answers_of
from workers.directory.agents import Roster
from workers.directory.teams import Teams
from workers.dispatch.route import Bulk, Entry, Known, Refused, Unresolved, as_conflict, as_unknown, read, route
from workers.turn.settlement import Ending


class PostOffice:
    """What every process does, one step at a time, to one tenant's ledger."""

    def __init__(self, ledger: Ledger, roster: list[Agent], ending: Ending) -> None:
        self.ledger = ledger
        self.roster = Roster.of(roster, read_at=1e12)
        self.ending = ending

    async def publish(self, id_: str, *, by_operator: bool = False, **fields: Any) -> None:
        said = Envelope.model_validate({"id": id_, "content": f"hello {id_}", **fields})
        wire = said.to_wire()
        answer = await self.ledger.scripts.publish(
            self.ledger.context,
            message_id=id_,
            digest=said.digest(),
            envelope=wire,
            size=len(wire.encode()),
            answers=answers_of(said, id_),
            by_operator=by_operator,
        )
        assert answer.status == "accepted", (id_, answer)

    async def put(self, raw: bytes | dict[str, Any]) -> None:
        """As a producer does that writes to the stream itself."""
        wire = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
        await self.ledger.client.xadd(self.ledger.keys.tasks, {"message": wire})

    async def dispatch(self, *, expand: int = 10_000) -> None:
        """Everything on the stream; of a bulk send, so many deliveries."""
        ledger = self.ledger
        known = Known(self.roster, await Teams(ledger.client).all(ledger.context), "CANARY-")
        for entry_id, fields in await ledger.client.xrange(ledger.keys.tasks):
            await ledger.time.advance(ms=1)
            one: Any = read(ledger.context, entry_id.decode(), fields, seen_at=0)
            if isinstance(one, Entry):
                one = route(ledger.context, known, one)
            if isinstance(one, Unresolved):
                one = as_unknown(one)
            await self._carry(one, expand)

    async def _carry(self, one: Any, expand: int) -> None:
        scripts, context = self.ledger.scripts, self.ledger.context
        match one:
            case Refused():
                await scripts.refuse(
                    context,
                    owner=OWNER,
                    entry_id=one.entry_id,
                    message_id=one.message_id,
                    cause=one.cause,
                    detail=one.detail,
                    answers=one.answers,
                )
            case Bulk():
                if one.move is not None:
                    await scripts.snapshot(context, owner=OWNER, move=one.move)
                await scripts.expand(
                    context, owner=OWNER, entry_id=one.entry_id, message_id=one.message_id, limit=expand, seed="seed"
                )
            case _:
                answer = await scripts.dispatch(context, owner=OWNER, move=one, seed="seed")
                if answer.status == "conflict":
                    await self._carry(as_conflict(one), expand)

    async def take(self, pool: Pool = Pool.STANDARD) -> list[Taken]:
        await self.ledger.time.advance(ms=1)
        return list((await self.ledger.take(64, pool=pool)).taken)

    async def take_one(self, delivery: str, pool: Pool = Pool.STANDARD) -> Taken:
        """Only this one: the others that came with it are given back, at no cost."""
        found = {one.id: one for one in await self.take(pool)}
        for id_, other in found.items():
            if id_ != delivery:
                await self.settle(other, State.WAITING, Cause.RETURNED, refund=True)
        return found[delivery]

    async def settle(self, taken: Taken, state: State, cause: Cause, **more: Any) -> str:
        settlement = Settlement(taken.id, taken.agent, taken.token, state, cause, **more)
        return (await self.ledger.scripts.settle(self.ledger.context, seed="", settlements=[settlement])).results[0]

    async def deliver(self, taken: Taken, text: str = "a reply") -> str:
        """The turn ran to its end; the reply goes where the envelope says."""
        said = Envelope.model_validate_json(taken.envelope)
        outcome = Replied(text, "end_turn", f"run-{taken.token}")
        settlement = self.ending.of_outcome(taken, said, outcome, None)
        return (await self.ledger.scripts.settle(self.ledger.context, seed="", settlements=[settlement])).results[0]
