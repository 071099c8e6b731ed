"""Identifiers in the exact forms a Letta server gives and accepts, because callers match on them."""

import re
from uuid import UUID, uuid4

UUID4 = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
AGENT_PATTERN = f"^agent-{UUID4}$"
CONVERSATION_PATTERN = f"^(default|conv-{UUID4}|agent-{UUID4})$"
_AGENT = re.compile(AGENT_PATTERN)
_CONVERSATION = re.compile(CONVERSATION_PATTERN)
_RUN = re.compile(f"^run-{UUID4}$")


def new_id(kind: str) -> str:
    """A fresh `<kind>-<uuid4>`."""
    return f"{kind}-{uuid4()}"


def otid_of(message_id: str) -> str:
    """The otid the server gives to its own messages: the message's uuid with the low seven bits cleared."""
    number = UUID(message_id.removeprefix("message-")).int
    return str(UUID(int=number & ~0x7F))


def is_agent_id(text: str) -> bool:
    """Whether the text is `agent-<uuid4>`; other uuid versions are refused by the server too."""
    return _AGENT.match(text) is not None


def is_conversation_id(text: str) -> bool:
    """Whether the text names a conversation, the agent's own ("default"), or an agent."""
    return _CONVERSATION.match(text) is not None


def is_run_id(text: str) -> bool:
    """Whether the text is `run-<uuid4>`."""
    return _RUN.match(text) is not None
