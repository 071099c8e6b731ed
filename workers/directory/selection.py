"""Which agents an address of many means: what a selector finds, who is in a team, which teams an agent counts under.

Pure. What it is given is one tenant's list already; nothing here can reach beyond it.
"""

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from schemas.address import SelectorAddress
from schemas.agent import Agent
from schemas.ids import AgentId
from schemas.team import ROLE_TAG, TEAM_TAG, Team

COPY_SUFFIX = "_copy"
"""What Letta's import appends to the name of the agent it makes; tags and history are the original's."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a selector finds, each sorted by name, then id."""

    agents: tuple[Agent, ...]
    canaries: tuple[Agent, ...]
    """Those that fit and are left out: copies under the canary prefix."""
    copies: tuple[tuple[Agent, Agent], ...]
    """Selected agents that look like an import's copy, each with its original. They are noticed, not left out."""


def select(agents: Iterable[Agent], selector: SelectorAddress, *, canary_prefix: str) -> Selection:
    """The agents that have all of the tags, exactly, and whose name fits the pattern, upper and lower case told apart.

    `agents` is the tenant's whole list. An empty prefix leaves nobody out.
    """
    known = sorted(agents, key=_by_name)
    fits_name = re.compile(fnmatch.translate(selector.name or "*")).match
    wanted = frozenset(selector.tags)
    fitting = [agent for agent in known if wanted.issubset(agent.tags) and fits_name(agent.name)]
    if selector.canaries or not canary_prefix:
        chosen, canaries = fitting, []
    else:
        chosen = [agent for agent in fitting if not agent.name.startswith(canary_prefix)]
        canaries = [agent for agent in fitting if agent.name.startswith(canary_prefix)]
    return Selection(tuple(chosen), tuple(canaries), tuple(_copies(chosen, known)))


def members(
    team: Team | None, name: str, agents: Mapping[AgentId, Agent], role: str | None, *, canary_prefix: str = ""
) -> tuple[AgentId, ...]:
    """Who is in a team, or has this role in it. Nobody is in it twice.

    A team that lists its members has them in that order, also those that the tenant does not have any more: each is
    refused by itself. Otherwise by name: the agents with all of the team's tags, or, where no team of this name is
    registered, those with the tag `team:<name>`. A member's role is the one it was listed with, else its agent's
    `role:` tags say it. Copies under the canary prefix carry their originals' tags, and are in no team by tags.
    """
    if team is not None and not team.is_by_tags:
        return tuple(
            member.agent
            for member in team.members
            if role is None or role in roles_of(agents.get(member.agent), listed=member.role)
        )
    tags = {TEAM_TAG + name} if team is None else set(team.tags)
    fitting = [agent for agent in agents.values() if tags.issubset(agent.tags)]
    found = [agent for agent in fitting if not canary_prefix or not agent.name.startswith(canary_prefix)]
    return tuple(agent.id for agent in sorted(found, key=_by_name) if role is None or role in roles_of(agent))


def roles_of(agent: Agent | None, *, listed: str | None = None) -> tuple[str, ...]:
    """The roles of a team's member: as it was listed, else what its agent's `role:` tags say."""
    if listed is not None:
        return (listed,)
    tags = agent.tags if agent is not None else ()
    return tuple(tag.removeprefix(ROLE_TAG) for tag in tags if tag.startswith(ROLE_TAG))


def teams_of(agent: Agent, teams: Mapping[str, Team]) -> tuple[str, ...]:
    """Every team under whose rate the agent's turns count, each once: its `team:` tags, then the registered teams that
    list it or whose tags it has. Scripts take the names joined by commas, so that a tag's own become spaces.
    """
    tags = frozenset(agent.tags)
    tagged = [tag.removeprefix(TEAM_TAG).replace(",", " ") for tag in agent.tags if tag.startswith(TEAM_TAG)]
    registered = [
        name for name, team in teams.items() if agent.id in team.listed or (team.tags and team.tag_set <= tags)
    ]
    return tuple(dict.fromkeys((*tagged, *registered)))


def _by_name(agent: Agent) -> tuple[str, AgentId]:
    return agent.name, agent.id


def _copies(chosen: Iterable[Agent], known: Iterable[Agent]) -> Iterator[tuple[Agent, Agent]]:
    first: dict[str, Agent] = {}
    for agent in known:
        first.setdefault(agent.name, agent)
    for agent in chosen:
        original, name = None, agent.name
        while name.endswith(COPY_SUFFIX):
            name = name.removesuffix(COPY_SUFFIX)
            # The shortest known name is the original itself, not a copy between.
            original = first.get(name, original)
        if original is not None:
            yield agent, original
