"""Dead letters, read: what could not be delivered, why, and the message as it came. Changes nothing."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from schemas.context import Context
from schemas.delivery import Cause, State
from schemas.letter import DeadLetter
from workers.broker import keys
from workers.broker.client import Client
from workers.errors import NotFoundError

PAGE = 50
"""Letters at a time: each may carry a large message."""


@dataclass(frozen=True, slots=True)
class Addressed:
    """A dead letter with the agent it was for."""

    letter: DeadLetter
    agent: str | None
    """None where it came into no mailbox."""
    agent_name: str | None = None

    @property
    def id(self) -> str:
        """What people call it by: the delivery, or the message that never became one."""
        return self.letter.delivery_id or self.letter.message_id or self.letter.entry_id


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters: those that fit everything that is given."""

    ids: frozenset[str] = frozenset()
    """Letters, deliveries or messages, by id."""
    agent: str | None = None
    """By name or id."""
    cause: Cause | None = None
    before_ms: int | None = None

    def fits(self, one: Addressed) -> bool:
        """Whether this letter is meant."""
        letter = one.letter
        named = {letter.entry_id, letter.delivery_id, letter.message_id}
        return (
            (not self.ids or not self.ids.isdisjoint(named))
            and self.agent in {None, one.agent, one.agent_name}
            and self.cause in {None, letter.cause}
            and (self.before_ms is None or letter.at_ms < self.before_ms)
        )


async def read_letters(
    context: Context, client: Client, *, names: Callable[[str], str | None] = lambda _: None
) -> AsyncIterator[Addressed]:
    """The tenant's dead letters, oldest first; without the raw bytes that they may carry. `names` tells an agent's
    name by its id.
    """
    start = "-"
    while page := await client.xrange(keys.of(context).dead, start, "+", count=PAGE):
        letters = [_letter(entry_id, {**fields, b"raw": b""}) for entry_id, fields in page]
        agents = await _agents(context, client, letters)
        for letter, agent in zip(letters, agents, strict=True):
            yield Addressed(letter, agent, names(agent) if agent else None)
        start = f"({letters[-1].entry_id}"


async def read_letter_entries(context: Context, client: Client) -> AsyncIterator[DeadLetter]:
    """The tenant's dead letters, oldest first, with the raw bytes that they may carry."""
    start = "-"
    while page := await client.xrange(keys.of(context).dead, start, "+", count=PAGE):
        for entry in page:
            yield _letter(*entry)
        start = f"({page[-1][0].decode()}"


async def read_letter(context: Context, client: Client, id_: str) -> Addressed:
    """One letter by its own id or its delivery's or message's, with its raw bytes.

    Raises:
        NotFoundError: there is none.
    """
    wanted = Wanted(ids=frozenset({id_}))
    async for one in read_letters(context, client):
        if wanted.fits(one):
            entries = await client.xrange(keys.of(context).dead, one.letter.entry_id, one.letter.entry_id)
            if entries:
                return Addressed(_letter(*entries[0]), one.agent)
    raise NotFoundError(f"there is no dead letter {id_!r} in tenant {context.tenant!r}")


async def _agents(context: Context, client: Client, letters: list[DeadLetter]) -> list[str | None]:
    names = keys.of(context)
    ids = [letter.delivery_id for letter in letters if letter.delivery_id]
    async with client.pipeline(transaction=False) as pipe:
        for id_ in ids:
            pipe.hget(names.delivery(id_), "agent")
        found = await pipe.execute() if ids else []
    known = {id_: agent.decode() for id_, agent in zip(ids, found, strict=True) if agent}
    return [known.get(letter.delivery_id or "") for letter in letters]


def _letter(entry_id: bytes, fields: dict[bytes, bytes]) -> DeadLetter:
    said = {name.decode(): value for name, value in fields.items()}

    def word(name: str) -> str:
        return said.get(name, b"").decode(errors="replace")

    return DeadLetter(
        entry_id=entry_id.decode(),
        at_ms=int(entry_id.partition(b"-")[0]),
        message_id=word("message") or None,
        delivery_id=word("delivery") or None,
        state=State(word("state")),
        cause=Cause(word("cause")),
        detail=word("detail"),
        attempts=int(word("attempts") or 0),
        raw=said.get("raw") or None,
    )
