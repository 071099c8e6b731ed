"""From an entry of the stream to a move into mailboxes, or to a refusal with its cause. Changes nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from schemas.address import CONFIRM_PAST, AgentAddress, SelectorAddress, TeamAddress
from schemas.agent import Agent, tenant_tag
from schemas.context import Context
from schemas.delivery import Cause
from schemas.envelope import Envelope
from schemas.ids import AgentId, MessageId, message_id_of_entry
from schemas.team import MAX_MEMBERS, Team
from workers.broker.results import Move
from workers.bus import door
from workers.bus.replies import answers_of
from workers.directory.agents import AmbiguousAgent, Roster, UnknownAgent
from workers.directory.selection import members, select, teams_of


@dataclass(frozen=True, slots=True)
class Known:
    """What a tenant's addresses are looked up in."""

    roster: Roster
    teams: Mapping[str, Team]
    canary_prefix: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the stream that is an envelope of its tenant."""

    entry_id: str
    message_id: MessageId
    envelope: Envelope
    seen_at: float
    """When it was read, monotonic: a list that was read later knows better."""
    by_operator: bool = False
    """Whether an operator published it, by the record of its publish."""


@dataclass(frozen=True, slots=True)
class Bulk:
    """An entry that goes to all whom a selector finds."""

    entry_id: str
    message_id: MessageId
    move: Move | None
    """None: its recipients were taken down before."""


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
class Newer:
    """The entry is in the words of a newer version: a dispatcher that knows them may move it."""

    refusal: Refused
    """What it comes to if there is none."""


@dataclass(frozen=True, slots=True)
class Unresolved:
    """The list of agents does not have the recipient, or has several: it may be out of date."""

    entry: Entry
    refusal: Refused
    """What it comes to if the next list says the same."""


Routed = Move | Bulk | Refused | Unresolved
Recipients = Sequence[tuple[AgentId, tuple[str, ...]]]


def read(context: Context, entry_id: str, fields: Mapping[bytes, bytes], *, seen_at: float) -> Entry | Refused | Newer:
    """Reads one entry, which was read from the stream at `seen_at`."""
    raw = fields.get(b"message")
    own_id = message_id_of_entry(entry_id)
    if raw is None:
        return Refused(entry_id, own_id, Cause.INVALID, "entry has no field `message`")
    try:
        envelope = door.read(context, raw)
    except door.Refusal as refusal:
        refused = Refused(entry_id, refusal.message_id or own_id, refusal.cause, str(refusal))
        return Newer(refused) if isinstance(refusal, door.Newer) else refused
    return Entry(entry_id, envelope.id or own_id, envelope, seen_at)


def goes_by_the_list(entry: Entry, teams: Mapping[str, Team]) -> bool:
    """Whether its recipients are whoever the list has: then an old list leaves some out, unnoticed."""
    to = entry.envelope.to
    if isinstance(to, TeamAddress):
        return to.team not in teams or teams[to.team].is_by_tags
    return isinstance(to, SelectorAddress)


def route(context: Context, known: Known, entry: Entry) -> Routed:
    """Finds whom it is for."""
    match entry.envelope.to:
        case AgentAddress():
            return _to_agent(known, entry, entry.envelope.to)
        case TeamAddress():
            return _to_team(known, entry, entry.envelope.to)
        case SelectorAddress():
            return _to_selection(context, known, entry, entry.envelope.to)


def as_unknown(unresolved: Unresolved) -> Refused:
    """A list that was read after the entry says the same: so it is."""
    return unresolved.refusal


def as_conflict(move: Move) -> Refused:
    """The entry whose id is another message's: recorded under an id of its own."""
    detail = f"id: {move.message_id} was published before with another body"
    return Refused(move.entry_id, message_id_of_entry(move.entry_id), Cause.CONFLICT, detail, move.answers)


def _to_agent(known: Known, entry: Entry, to: AgentAddress) -> Routed:
    found = known.roster.find(to.agent)
    match found:
        case UnknownAgent():
            return _unresolved(entry, Cause.UNKNOWN_AGENT, "to.agent: the tenant has no such agent")
        case AmbiguousAgent(ids):
            some = ", ".join(ids[:5])
            return _unresolved(entry, Cause.AMBIGUOUS_AGENT, f"to.agent: {len(ids)} agents have this name: {some}")
        case Agent():
            return _move(entry, _with_teams(known, [found.id]))


def _to_team(known: Known, entry: Entry, to: TeamAddress) -> Routed:
    team = known.teams.get(to.team)
    agents, canaries = known.roster.by_id, known.canary_prefix
    everybody = members(team, to.team, agents, None, canary_prefix=canaries)
    if team is None and not everybody:
        return _unresolved(entry, Cause.UNKNOWN_TEAM, "to.team: the tenant has no such team, and no agent its tag")
    found = everybody if to.role is None else members(team, to.team, agents, to.role, canary_prefix=canaries)
    chosen = [id_ for id_ in found if entry.envelope.sender != f"agent:{id_}"]
    if not chosen:
        who = "the team has no members" if to.role is None else "nobody in the team has this role"
        return _unresolved(entry, Cause.NO_RECIPIENTS, f"to.team: {who}{', but the sender' if found else ''}")
    if len(chosen) > MAX_MEMBERS:
        detail = f"to.team: {len(chosen)} agents, more than the {MAX_MEMBERS} of a team: select by tags instead"
        return _refused(entry, Cause.TOO_MANY_RECIPIENTS, detail)
    return _move(entry, _with_teams(known, chosen))


def _to_selection(context: Context, known: Known, entry: Entry, to: SelectorAddress) -> Routed:
    if to.is_unscoped(own_tag=tenant_tag(context.tenant)) and not entry.by_operator:
        detail = "to: selects every agent of the tenant, which only an operator may: narrow it by tags or a name"
        return _refused(entry, Cause.UNSCOPED, detail)
    selection = select(known.roster.by_id.values(), to, canary_prefix=known.canary_prefix)
    if not selection.agents:
        aside = f", but {len(selection.canaries)} canary copies" if selection.canaries else ""
        return _unresolved(entry, Cause.NO_RECIPIENTS, f"to: no agent of the tenant fits{aside}")
    meant = to.at_most or CONFIRM_PAST
    if len(selection.agents) > meant:
        detail = f"to: {len(selection.agents)} agents fit, at most {meant} are meant: say at_most if it is to be more"
        return _refused(entry, Cause.TOO_MANY_RECIPIENTS, detail)
    move = _move(entry, _with_teams(known, [agent.id for agent in selection.agents]))
    return Bulk(entry.entry_id, entry.message_id, move)


def _unresolved(entry: Entry, cause: Cause, detail: str) -> Unresolved:
    return Unresolved(entry, _refused(entry, cause, detail))


def _refused(entry: Entry, cause: Cause, detail: str) -> Refused:
    answers = answers_of(entry.envelope, entry.message_id)
    return Refused(entry.entry_id, entry.message_id, cause, detail, answers)


def _with_teams(known: Known, ids: Iterable[AgentId]) -> Recipients:
    """Each with the teams under whose rate its turn counts. One that the list does not have is refused at its turn."""
    agents = known.roster.by_id
    return [(id_, teams_of(agents[id_], known.teams) if id_ in agents else ()) for id_ in ids]


def _move(entry: Entry, recipients: Recipients) -> Move:
    envelope = entry.envelope
    accepted_ms = int(entry.entry_id.partition("-")[0])
    wire = envelope.model_copy(update={"id": entry.message_id}).to_wire()
    gather = envelope.gather
    return Move(
        entry_id=entry.entry_id,
        message_id=entry.message_id,
        digest=envelope.digest(),
        envelope=wire,
        size=len(wire.encode()),
        rank=envelope.priority.rank,
        not_before_ms=envelope.not_before_ms(),
        expires_at_ms=envelope.expires_at_ms(accepted_ms),
        recipients=tuple(recipients),
        answers=answers_of(envelope, entry.message_id),
        gather_want=None if gather is None else len(recipients) if gather.want == "all" else gather.want,
        gather_within_ms=None if gather is None else round(gather.within * 1000),
    )
