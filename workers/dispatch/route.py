"""From an entry of the stream to a move into mailboxes, or to a refusal with its cause. Changes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from schemas.agent import Agent
from schemas.context import Context
from schemas.delivery import Cause
from schemas.envelope import Envelope
from schemas.ids import MessageId, message_id_of_entry
from workers.broker.results import Move
from workers.bus import door
from workers.directory.agents import AmbiguousAgent, Directory, UnknownAgent

TEAM_TAG = "team:"


@dataclass(frozen=True, slots=True)
class Refused:
    """The entry cannot be a delivery."""

    entry_id: str
    message_id: MessageId
    cause: Cause
    detail: str


async def route(
    context: Context, directory: Directory, entry_id: str, fields: Mapping[bytes, bytes], *, seen_at: float
) -> Move | Refused:
    """Reads one entry, which left the stream at `seen_at` (monotonic), and finds its recipient.

    Raises:
        LettaUnavailableError: the recipient is not known and Letta cannot be asked now; the entry stays.
    """
    raw = fields.get(b"message")
    own_id = message_id_of_entry(entry_id)
    if raw is None:
        return Refused(entry_id, own_id, Cause.INVALID, "entry has no field `message`")
    try:
        envelope = door.read(context, raw)
    except door.Refusal as refusal:
        return Refused(entry_id, refusal.message_id or own_id, refusal.cause, str(refusal))
    message_id = envelope.id or own_id
    found = await directory.find(context, envelope.to.agent, seen_at=seen_at)
    match found:
        case UnknownAgent():
            return Refused(entry_id, message_id, Cause.UNKNOWN_AGENT, "to.agent: the tenant has no such agent")
        case AmbiguousAgent(ids):
            some = ", ".join(ids[:5])
            return Refused(
                entry_id,
                message_id,
                Cause.AMBIGUOUS_AGENT,
                f"to.agent: {len(ids)} agents have this name: {some}",
            )
        case Agent():
            return _move(entry_id, message_id, envelope, found)


def as_conflict(move: Move) -> Refused:
    """The entry whose id is another message's: recorded under an id of its own."""
    detail = f"id: {move.message_id} was published before with another body"
    return Refused(move.entry_id, message_id_of_entry(move.entry_id), Cause.CONFLICT, detail)


def under_own_id(refused: Refused) -> Refused:
    """The same refusal under an id that surely is the entry's own."""
    return replace(refused, message_id=message_id_of_entry(refused.entry_id))


def _move(entry_id: str, message_id: MessageId, envelope: Envelope, agent: Agent) -> Move:
    accepted_ms = int(entry_id.partition("-")[0])
    teams = tuple(tag.removeprefix(TEAM_TAG).replace(",", " ") for tag in agent.tags if tag.startswith(TEAM_TAG))
    return Move(
        entry_id=entry_id,
        message_id=message_id,
        digest=envelope.digest(),
        envelope=envelope.model_copy(update={"id": message_id}).to_wire(),
        size=len(envelope.content.encode()),
        rank=envelope.priority.rank,
        not_before_ms=envelope.not_before_ms(),
        expires_at_ms=envelope.expires_at_ms(accepted_ms),
        recipients=((agent.id, teams),),
    )
