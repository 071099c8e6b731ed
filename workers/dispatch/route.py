"""From an entry of the stream to a move into mailboxes, or to a refusal with its cause. Changes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.address import AgentAddress
from schemas.agent import Agent
from schemas.context import Context
from schemas.delivery import Cause
from schemas.envelope import Envelope
from schemas.ids import MessageId, message_id_of_entry
from schemas.team import TEAM_TAG
from workers.broker.results import Move
from workers.bus import door
from workers.bus.replies import answers_of
from workers.directory.agents import AmbiguousAgent, Roster, UnknownAgent


@dataclass(frozen=True, slots=True)
class Refused:
    """The entry cannot be a delivery."""

    entry_id: str
    message_id: MessageId
    cause: Cause
    detail: str
    answers: str = ""
    """Where its end is posted, as of a move."""


@dataclass(frozen=True, slots=True)
class Unresolved:
    """The list of agents does not have the recipient, or has several: it may be out of date."""

    entry_id: str
    fields: Mapping[bytes, bytes]
    seen_at: float
    """When the entry was read, monotonic: a list that was read later knows better."""
    refusal: Refused
    """What it comes to if the next list says the same."""


Routed = Move | Refused | Unresolved


def route(context: Context, roster: Roster, entry_id: str, fields: Mapping[bytes, bytes], *, seen_at: float) -> Routed:
    """Reads one entry, which was read from the stream at `seen_at`, and finds its recipient in the list."""
    raw = fields.get(b"message")
    own_id = message_id_of_entry(entry_id)
    if raw is None:
        return Refused(entry_id, own_id, Cause.INVALID, "entry has no field `message`")
    try:
        envelope = door.read(context, raw)
    except door.Refusal as refusal:
        return Refused(entry_id, refusal.message_id or own_id, refusal.cause, str(refusal))
    message_id = envelope.id or own_id
    answers = answers_of(envelope, message_id)
    if not isinstance(envelope.to, AgentAddress):
        detail = "to: only agents can be addressed"
        return Refused(entry_id, message_id, Cause.NO_RECIPIENTS, detail, answers)
    found = roster.find(envelope.to.agent)
    match found:
        case UnknownAgent():
            detail = "to.agent: the tenant has no such agent"
            refused = Refused(entry_id, message_id, Cause.UNKNOWN_AGENT, detail, answers)
            return Unresolved(entry_id, fields, seen_at, refused)
        case AmbiguousAgent(ids):
            some = ", ".join(ids[:5])
            detail = f"to.agent: {len(ids)} agents have this name: {some}"
            refused = Refused(entry_id, message_id, Cause.AMBIGUOUS_AGENT, detail, answers)
            return Unresolved(entry_id, fields, seen_at, refused)
        case Agent():
            return _move(entry_id, message_id, envelope, found)


def as_unknown(unresolved: Unresolved) -> Refused:
    """A list that was read after the entry says the same: so it is."""
    return unresolved.refusal


def as_conflict(move: Move) -> Refused:
    """The entry whose id is another message's: recorded under an id of its own."""
    detail = f"id: {move.message_id} was published before with another body"
    return Refused(move.entry_id, message_id_of_entry(move.entry_id), Cause.CONFLICT, detail, move.answers)


def _move(entry_id: str, message_id: MessageId, envelope: Envelope, agent: Agent) -> Move:
    accepted_ms = int(entry_id.partition("-")[0])
    teams = tuple(tag.removeprefix(TEAM_TAG).replace(",", " ") for tag in agent.tags if tag.startswith(TEAM_TAG))
    wire = envelope.model_copy(update={"id": message_id}).to_wire()
    return Move(
        entry_id=entry_id,
        message_id=message_id,
        digest=envelope.digest(),
        envelope=wire,
        size=len(wire.encode()),
        rank=envelope.priority.rank,
        not_before_ms=envelope.not_before_ms(),
        expires_at_ms=envelope.expires_at_ms(accepted_ms),
        recipients=((agent.id, teams),),
        answers=answers_of(envelope, message_id),
    )
