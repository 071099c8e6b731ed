"""Causes and states in words: what happened, and what will."""

from schemas.delivery import Cause, State

CAUSES: dict[Cause, str] = {
    Cause.NOT_BEFORE: "it is to wait until its time",
    Cause.RATE_TENANT: "the tenant's turns a minute are used up",
    Cause.RATE_TEAM: "the team's turns a minute are used up",
    Cause.RATE_AGENT: "the agent's turns a minute are used up",
    Cause.BUSY: "the agent is busy elsewhere; it is tried again, at no cost",
    Cause.APPROVAL: "the agent waits for a person's approval; its mailbox is parked",
    Cause.BACKOFF: "the last attempt failed; it is tried again after a pause",
    Cause.THROTTLED: "the server or its model asks for a pause (429); at no cost",
    Cause.SERVER_AWAY: "the Letta server is away, or fails; it is asked every 5 s, and it costs no attempt",
    Cause.LOOKING: "a call was cut; the server is asked what became of it before anything is sent again",
    Cause.RECOVERED: "its worker fell silent; another one takes over",
    Cause.RETURNED: "its worker gave it back unused",
    Cause.SUSPENDED: "the tenant is suspended",
    Cause.PAUSED: "its bulk send is paused (`postroom bulk resume`)",
    Cause.BEHIND: "the agent's turn now, or the head of its mailbox, is another message",
    Cause.IN_FLIGHT: "the tenant has as many turns in flight as it may",
    Cause.FULL: "the tenant's bytes are used up; it goes on when something has ended",
    Cause.PARKED: "the agent is parked with its mailbox (`postroom agent show`, `postroom agent unpark`)",
    Cause.SUSPECT: "workers fell silent while they had it; such ones go one at a time, to find the one that did it",
    Cause.REDRIVEN: "it was a dead letter; somebody put it back",
    Cause.REPLIED: "the agent's turn ran to its end",
    Cause.TTL: "its time ran out before a turn",
    Cause.INVALID: "it is not an envelope",
    Cause.TENANT_MISMATCH: "it names another tenant than its stream's",
    Cause.CONFLICT: "its id was published before with another body",
    Cause.UNKNOWN_AGENT: "the tenant has no such agent",
    Cause.AMBIGUOUS_AGENT: "several agents of the tenant have this name; use the id",
    Cause.UNKNOWN_TEAM: "the tenant has no such team",
    Cause.NO_RECIPIENTS: "nobody in the tenant fits its address",
    Cause.TOO_MANY_RECIPIENTS: "it would go to more agents than its sender meant, or than a team may have",
    Cause.UNSCOPED: "it would go to every agent of the tenant, and no operator said so",
    Cause.LOOP: "the chain of replies is too long",
    Cause.ATTEMPTS: "every attempt failed",
    Cause.REJECTED: "the server rejects it; trying again cannot help",
    Cause.POISON: "several workers fell silent over it",
    Cause.OUTCOME_UNKNOWN: "nobody can tell whether the agent got it; a person has to look",
    Cause.BY_SENDER: "its sender took it back",
    Cause.GATHERED: "the replies were gathered, and went on as one",
    Cause.NEWER: "it is in the words of a newer version, and nothing that knows them took it; upgrade, then redrive",
    Cause.DISCARDED: "somebody gave its dead letter up",
}

STATES: dict[State, str] = {
    State.ACCEPTED: "on the stream, kept; not yet in a mailbox",
    State.WAITING: "in the agent's mailbox",
    State.RUNNING: "the agent has its turn",
    State.DELIVERED: "the agent took its turn",
    State.EXPIRED: "no turn began in time",
    State.REFUSED: "it cannot be delivered to anybody",
    State.DEAD: "given up; it stands among the dead letters",
    State.CANCELLED: "taken back before any turn",
    State.UNKNOWN: "the call was cut, and nobody can tell",
}


def in_words(state: State, cause: Cause | None) -> str:
    """Why it is where it is."""
    if cause is None:
        return STATES[state]
    return CAUSES.get(cause, f"{cause}: a cause that this version does not know; a newer one wrote it")
