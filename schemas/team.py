"""A team: named agents of a tenant with roles, listed one by one or found by their tags."""

from functools import cached_property

from pydantic import BaseModel, ConfigDict, Field

from schemas.address import Label
from schemas.ids import AgentId, TeamName

MAX_MEMBERS = 50
TEAM_TAG = "team:"
"""Begins the tag on an agent that puts it into a team, and under the team's rate, without registering either."""
ROLE_TAG = "role:"
"""Begins the tag that says an agent's role, where the team finds its members by tags."""


class Member(BaseModel):
    """One agent of a team that lists its members."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    agent: AgentId
    name: str
    """The agent's name when it was added: for people."""
    role: Label | None = None


class Team(BaseModel):
    """A registered team. It either lists its members, or has those agents that carry all of its tags."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: TeamName
    members: tuple[Member, ...] = Field(default=(), max_length=MAX_MEMBERS)
    tags: tuple[Label, ...] = ()
    created_at_ms: int = 0

    @property
    def is_by_tags(self) -> bool:
        """Whether its members are found, not listed."""
        return bool(self.tags)

    @cached_property
    def listed(self) -> frozenset[AgentId]:
        """The agents that it lists: for asking of thousands of agents whether they are in it."""
        return frozenset(member.agent for member in self.members)

    @cached_property
    def tag_set(self) -> frozenset[str]:
        """Its tags, for the same question."""
        return frozenset(self.tags)
