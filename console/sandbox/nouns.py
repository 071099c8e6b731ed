"""What exists in the sandbox: agents, their contexts, messages, runs, blocks, tools. Plain data, no I/O."""

from dataclasses import dataclass, field

from console.sandbox.behaviour import Behaviour
from console.sandbox.gate import Gate

JsonObject = dict[str, object]

KEPT_MESSAGES = 2_000
SYSTEM_PROMPT = (
    "This agent lives in a Postroom sandbox. Its answers are simulated: a deterministic voice or an echo, "
    "no language model. The in-context size of this prompt stands for the base instructions of a real agent."
)


@dataclass(slots=True)
class Message:
    """One stored message. `details` are the fields only its kind has."""

    id: str
    kind: str
    at: float
    otid: str | None = None
    run_id: str | None = None
    step_id: str | None = None
    conversation_id: str | None = None
    content: object = None
    name: str | None = None
    sender_id: str | None = None
    details: JsonObject = field(default_factory=dict)


@dataclass(slots=True)
class Pending:
    """A tool call that waits for approval, with what the run needs to go on from there."""

    request: Message
    call: JsonObject
    text: str
    step: int
    step_id: str


@dataclass(slots=True)
class Thread:
    """One context: what the model would see. An agent has one, each conversation has its own."""

    message_ids: list[str] = field(default_factory=list)
    chars: int = 0
    last_user_text: str = ""
    pending: Pending | None = None
    whole: bool = True
    """Whether each tool call in it has its result, and each result its call. The model refuses it otherwise."""


@dataclass(slots=True)
class Usage:
    """Tokens of a run; four characters count as one token, as the scripted model counts them."""

    prompt: int = 0
    completion: int = 0
    steps: int = 0
    context: int = 0


@dataclass(slots=True)
class Step:
    """One call of the model inside a run."""

    id: str
    prompt: int
    completion: int
    stop_reason: str
    failed: bool = False


@dataclass(slots=True)
class Run:
    """One execution of an agent. Statuses move as the real server moves them, oddities included."""

    id: str
    agent_id: str
    at: float
    run_type: str
    background: bool = False
    conversation_id: str | None = None
    asynchronous: bool = False
    status: str = "created"
    stop_reason: str | None = None
    completed_at: float | None = None
    error: object = None
    callback_url: str | None = None
    messages: list[Message] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def settle(self, status: str, stop_reason: str | None, now: float, error: object = None) -> None:
        """Write an end state; the first one stamps completed_at, a later one may still change the status."""
        self.status = status
        if stop_reason is not None:
            self.stop_reason = stop_reason
        if error is not None:
            self.error = error
        if self.completed_at is None:
            self.completed_at = now

    @property
    def active(self) -> bool:
        """Whether the server counts it as not yet ended."""
        return self.status in {"created", "running"}


@dataclass(slots=True)
class Agent:
    """One agent. `messages` holds all its conversations' messages in the order they landed."""

    id: str
    name: str
    created_at: float
    updated_at: float
    model: str
    agent_type: str
    system: str
    tags: list[str] = field(default_factory=list)
    metadata: JsonObject | None = None
    description: str | None = None
    block_ids: list[str] = field(default_factory=list)
    tool_ids: list[str] = field(default_factory=list)
    tool_rules: list[JsonObject] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    thread: Thread = field(default_factory=Thread)
    last_stop_reason: str | None = None
    hidden: bool | None = None
    behaviour: Behaviour | None = None
    gate: Gate = field(default_factory=Gate)

    def keep(self, message: Message) -> None:
        """Append a landed message; the oldest ones go when too many are held."""
        self.messages.append(message)
        if len(self.messages) > KEPT_MESSAGES + 200:
            del self.messages[: len(self.messages) - KEPT_MESSAGES]


@dataclass(slots=True)
class Conversation:
    """A second context of an agent."""

    id: str
    agent_id: str
    created_at: float
    updated_at: float
    summary: str | None = None
    last_message_at: float | None = None
    thread: Thread = field(default_factory=Thread)


@dataclass(slots=True)
class Block:
    """A memory block; shared when several agents hold its id."""

    id: str
    label: str
    value: str
    limit: int
    description: str | None = None
    read_only: bool = False
    tags: list[str] = field(default_factory=list)
    metadata: JsonObject = field(default_factory=dict)


@dataclass(slots=True)
class Tool:
    """A tool an agent may call. Nothing is executed: the return value is simulated."""

    id: str
    name: str
    tool_type: str
    description: str
    json_schema: JsonObject
    source_code: str | None = None
    tags: list[str] = field(default_factory=list)
    requires_approval: bool | None = None


@dataclass(slots=True)
class Decision:
    """One answer to a tool call that waited: approve, deny, or the return of a tool the client ran."""

    call_id: str
    approve: bool
    reason: str | None = None
    tool_return: str | None = None
