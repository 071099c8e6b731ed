"""Every refusal the sandbox can give, with the status and the body a real 0.16.8 server gives."""

import json

from console.sandbox.directives import DROPPED
from console.sandbox.nouns import JsonObject

_STUB = "{'error': {'message': 'stub error %d', 'type': 'stub_error', 'code': 'stub_error', 'param': None}}"
_PENDING = (
    "CONFLICT: Cannot send a new message: The agent is waiting for approval on a tool call. "
    "Please approve or deny the pending request before continuing."
)
_ACTOR = "access level in ['read'] for actor='sandbox'"
_LLM_MESSAGES = {
    "llm_rate_limit": ("Rate limit exceeded for LLM model provider. Please wait before making another request."),
    "llm_bad_request": "The request to the LLM model provider was invalid.",
    "llm_authentication": "Authentication failed with the LLM model provider.",
    "llm_timeout": "The LLM request timed out. Please try again.",
    "llm_error": "An error occurred with the LLM request.",
}
_SERVER_ERROR = 500
_LLM_KINDS = {429: ("llm_rate_limit", 429), 400: ("llm_bad_request", 400), 401: ("llm_authentication", 401)}
_LLM_DETAILS = {
    429: "RATE_LIMIT_EXCEEDED: Rate limited by OpenAI",
    400: "INVALID_ARGUMENT: Bad request to OpenAI-compatible endpoint",
    401: "UNAUTHENTICATED: Authentication failed with OpenAI",
    404: "NOT_FOUND: Resource not found in OpenAI",
    403: "PERMISSION_DENIED: Permission denied by OpenAI",
    422: "INVALID_ARGUMENT: Invalid request content for OpenAI",
}


class Refusal(Exception):  # noqa: N818 - it is the server's answer, not a failure of ours
    """An answer other than 200."""

    def __init__(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"{status} {json.dumps(body)}")
        self.status = status
        self.body = body
        self.text = str(body.get("detail")) if isinstance(body, dict) else str(body)
        self.headers = headers or {}


class TurnFault(Exception):  # noqa: N818 - what a turn ends with; the route decides how to say it
    """A turn that could not be done. As an HTTP answer it is a refusal, inside a stream an error event."""

    def __init__(self, refusal: Refusal, *, text: str, stream_type: str, stream_message: str, stop: str) -> None:
        super().__init__(text)
        self.refusal = refusal
        self.text = text
        self.stream_type = stream_type
        self.stream_message = stream_message
        self.stop = stop


def detail(status: int, text: str) -> Refusal:
    """The common form: `{"detail": text}`."""
    return Refusal(status, {"detail": text})


def invalid(problems: list[JsonObject], **extra: object) -> Refusal:
    """422 as the server's validation handler writes it: the list of problems as Python text."""
    return Refusal(422, {"trace_id": "", "detail": str(problems), **extra})


def malformed_path(name: str, value: str, pattern: str, shown: str, **extra: object) -> Refusal:
    """422 for a path parameter that is not an id."""
    problem: JsonObject = {
        "type": "string_pattern_mismatch",
        "loc": ("path", name),
        "msg": f"String should match pattern '{shown}'",
        "input": value,
        "ctx": {"pattern": pattern},
    }
    return invalid([problem], **extra)


def not_found(kind: str, identifier: str) -> Refusal:
    """404 of everything except agents."""
    return detail(404, f"{kind} not found with id='['{identifier}']', {_ACTOR}")


def agent_not_found(agent_id: str) -> Refusal:
    """404 of agents.retrieve and of sending a message."""
    return detail(404, f"Agent with ID {agent_id} not found")


def busy(run_id: str | None) -> Refusal:
    """409: the conversation's lock is held."""
    holder = f" (run_id={run_id})" if run_id else ""
    text = (
        f"CONFLICT: Cannot send a new message: Another request{holder} is currently being processed "
        "for this conversation. Please wait for it to complete."
    )
    return Refusal(409, {"detail": text, "run_id": run_id} if run_id else {"detail": text})


def no_background(prefix: str = "") -> Refusal:
    """503: a background stream needs Redis. Refused on starting one, the text has a prefix."""
    return detail(
        503,
        f"{prefix}Background streaming requires Redis to be running. Please ensure Redis is properly configured. "
        "LETTA_REDIS_HOST: None, LETTA_REDIS_PORT: 6379",
    )


def expired() -> Refusal:
    """410: a run's stream is kept for three hours."""
    return detail(410, "EXPIRED: Run was created more than 3 hours ago, and is now expired.")


def pending_approval(request_id: str) -> TurnFault:
    """The agent waits for approval. Only agents.messages.create says so by a code; streams say it inside."""
    body = {"code": "PENDING_APPROVAL", "message": _PENDING, "pending_request_id": request_id}
    return TurnFault(
        Refusal(409, {"detail": body}),
        text=_PENDING,
        stream_type="internal_error",
        stream_message=_PENDING,
        stop="error",
    )


def pending_approval_plain() -> Refusal:
    """The same for conversations.messages.create(streaming=False): 409 with a plain text."""
    return detail(409, _PENDING)


def turn_invalid(text: str) -> TurnFault:
    """400 before the model is asked: empty content, wrong approval ids."""
    message = "An unknown error occurred with the LLM streaming request."
    return TurnFault(detail(400, text), text=text, stream_type="internal_error", stream_message=message, stop="error")


def llm_fault(status: int) -> TurnFault:
    """The model behind the agent answered with this status (DROPPED: it closed the connection)."""
    if DROPPED < status < _SERVER_ERROR and status not in _LLM_DETAILS:
        return _of_llm(
            "llm_bad_request", 400, f"INVALID_ARGUMENT: OpenAI API error: Error code: {status} - {_STUB % status}"
        )
    kind, answered = _LLM_KINDS.get(status, ("llm_error", 500))
    if status == DROPPED:
        text = "INTERNAL_SERVER_ERROR: OpenAI API error: Internal Server Error"
    else:
        cause = _LLM_DETAILS.get(status, "INTERNAL_SERVER_ERROR: OpenAI API error")
        text = f"{cause}: Error code: {status} - {_STUB % status}"
    return _of_llm(kind, answered, text)


def broken_history() -> TurnFault:
    """The model refuses the stored conversation: a tool call in it has no result."""
    said = (
        "No tool output found for function call call_0123456789abcdef01234567.",
        "{'error': {'message': '%s', 'type': 'invalid_request_error', 'param': 'input', 'code': None}}",
    )
    return _of_llm("llm_bad_request", 400, f"{_LLM_DETAILS[400]}: Error code: 400 - {said[1] % said[0]}")


def llm_timeout() -> TurnFault:
    """The model never answered and the server gave up."""
    return _of_llm("llm_timeout", 504, "DEADLINE_EXCEEDED: Request to OpenAI timed out")


def _of_llm(kind: str, answered: int, text: str) -> TurnFault:
    refusal = Refusal(answered, {"error": {"type": kind, "message": _LLM_MESSAGES[kind], "detail": text}})
    in_stream = "llm_error" if kind == "llm_bad_request" else kind
    return TurnFault(
        refusal,
        text=text,
        stream_type=in_stream,
        stream_message=_LLM_MESSAGES[in_stream],
        stop="llm_api_error",
    )
