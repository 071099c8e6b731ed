"""How model providers say that what an agent has behind it is malformed, so that every message to it is refused.

A tool call without its result, or the other way round, or an empty text, stored by the server when a run was cut.
It stays until a person mends the agent. The texts are as people met them, most behind a Letta server:

- letta-ai/letta#3308, #3273: "messages.166: tool_use ids were found without tool_result blocks immediately after"
- letta-ai/letta#3250: "No tool call found for function call output with call_id", "unexpected tool_use_id found in
  tool_result blocks"
- letta-ai/letta-code#291: "No tool output found for function call"
- pipecat-ai/pipecat#309: "An assistant message with 'tool_calls' must be followed by tool messages"
- nextcloud/context_agent#140: "messages with role 'tool' must be a response to a preceeding message"
- anthropics/claude-code#59812, #23369: "text content blocks must be non-empty", "must contain non-whitespace text"
- google-gemini/gemini-cli#6671: "the number of function response parts is equal to the number of function call parts"
"""

import re

# Quotes and backslashes around names come and go with whoever passes the text on.
_SIGNATURES = (
    r"tool_calls\W{0,4}must be followed by tool messages",
    r"role\W{0,4}tool\W{0,4}must be a response to a prece+ding message",
    r"no tool (?:output|call) found for function call",
    r"tool_use\W{0,4}ids were found without\W{0,4}tool_result",
    r"unexpected\W{0,4}tool_use_id\W{0,4}found in\W{0,4}tool_result",
    r"text content blocks must (?:be non-empty|contain non-whitespace text)",
    r"final assistant content cannot end with trailing whitespace",
    r"number of function response parts is equal to the number of function call parts",
)
_BROKEN = re.compile("|".join(_SIGNATURES), re.IGNORECASE)


def is_broken(said: str) -> bool:
    """Whether a model's refusal is about the history. `said` must not hold the message: it could say the same."""
    return _BROKEN.search(said) is not None
