"""To whom a message goes: an agent, a team or one role of it, or all agents that a selector finds.

Each form is a JSON object told apart by its fields; what they name is looked up inside the stream's tenant only.
"""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag, model_validator

from schemas.ids import TEAM_PATTERN, TeamName

Label = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
BoxName = Annotated[str, StringConstraints(pattern=TEAM_PATTERN)]
MAX_TAGS = 20
MAX_RECIPIENTS = 100_000
CONFIRM_PAST = 100
"""A selector that finds more agents than this is refused unless `at_most` says that so many are meant."""
TAG_MARK: Final = "@"
"""Begins the names of the forms where pydantic puts them into an error's place; no field begins with it."""


class _Address(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AgentAddress(_Address):
    """One agent of the tenant, by id or by name."""

    agent: Label = Field(description="The agent's id (agent-<uuid>) or its exact name.")


class TeamAddress(_Address):
    """Every member of a team, or those with one role."""

    team: TeamName = Field(description="The team's name: a registered one, or the name in the agents' `team:` tags.")
    role: Label | None = Field(default=None, description="Only the members with this role.")


class SelectorAddress(_Address):
    """Every agent of the tenant that has all the tags and whose name fits: a bulk send, to a snapshot taken once."""

    tags: tuple[Label, ...] = Field(default=(), max_length=MAX_TAGS, description="All of them, as on the agent.")
    name: Label | None = Field(default=None, description="A pattern for the name: `support-*`, `?` for one character.")
    canaries: bool = Field(default=False, description="Also the copies under the canary prefix.")
    at_most: int | None = Field(
        default=None,
        ge=1,
        le=MAX_RECIPIENTS,
        description=f"How many agents are meant at most; more are refused. Left out: {CONFIRM_PAST}.",
    )

    @model_validator(mode="after")
    def _names_something(self) -> "SelectorAddress":
        if not self.tags and self.name is None:
            raise ValueError("give tags, a name pattern, or both")
        return self

    def is_unscoped(self, *, own_tag: str) -> bool:
        """Whether it narrows nothing: it selects every agent of the tenant, whose tag is `own_tag`."""
        narrowing = [tag for tag in self.tags if tag != own_tag]
        return not narrowing and (self.name is None or not self.name.strip("*"))


class StreamAddress(_Address):
    """A stream of the tenant's own, outside the mailboxes: for readers that are no agents."""

    stream: BoxName = Field(description="The stream's name; it is made by its first reply.")


class QueueAddress(_Address):
    """A callback queue of the tenant's own: a Redis list, each reply popped by one reader."""

    queue: BoxName = Field(description="The queue's name; it is made by its first reply.")


def _form_of(fields: tuple[tuple[str, str], ...]) -> Any:
    def form(value: Any) -> str | None:
        def has(name: str) -> bool:
            return name in value if isinstance(value, dict) else hasattr(value, name)

        return next((TAG_MARK + form for name, form in fields if has(name)), None)

    return form


_TO = (("agent", "agent"), ("team", "team"), ("tags", "select"), ("name", "select"))
_REPLY_TO = (("agent", "agent"), ("team", "team"), ("stream", "stream"), ("queue", "queue"))

To = Annotated[
    Annotated[AgentAddress, Tag("@agent")]
    | Annotated[TeamAddress, Tag("@team")]
    | Annotated[SelectorAddress, Tag("@select")],
    Discriminator(
        _form_of(_TO), custom_error_type="address", custom_error_message="expected an agent, a team, tags or a name"
    ),
]
ReplyTo = Annotated[
    Annotated[AgentAddress, Tag("@agent")]
    | Annotated[TeamAddress, Tag("@team")]
    | Annotated[StreamAddress, Tag("@stream")]
    | Annotated[QueueAddress, Tag("@queue")],
    Discriminator(
        _form_of(_REPLY_TO),
        custom_error_type="address",
        custom_error_message="expected an agent, a team, a stream or a queue",
    ),
]


def in_short(address: AgentAddress | TeamAddress | SelectorAddress | StreamAddress | QueueAddress) -> str:
    """An address in one line, for people."""
    match address:
        case AgentAddress(agent=agent):
            return agent
        case TeamAddress(team=team, role=role):
            return f"team {team}, role {role}" if role else f"team {team}"
        case SelectorAddress(tags=tags, name=name):
            return " ".join((*tags, *([name] if name else [])))
        case StreamAddress(stream=stream):
            return f"stream {stream}"
        case QueueAddress(queue=queue):
            return f"queue {queue}"
