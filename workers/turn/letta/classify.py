"""From what a Letta server said to an Outcome: by body, never by status alone (LETTA.md section 5).

Pure. An answer speaks in one of three ways: `{"error": {"type": ..}}` is about the model behind the agent,
`{"detail": ..}` is Letta's own, and anything else was said by something in between, which cannot know
whether the turn began. Streams and stored runs carry the first kind as an error event or as a bare text.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import letta_client

from schemas.delivery import Cause
from schemas.outcome import (
    AwaitsApproval,
    BrokenHistory,
    Busy,
    Failed,
    FateUnknown,
    Outcome,
    Rejected,
    Throttled,
    Trouble,
)
from workers.turn.letta.history import is_broken
from workers.turn.letta.network import broken
from workers.turn.letta.words import words

_LONGEST_WAIT_MS = 24 * 3_600_000
_FAILED_STOPS = frozenset(
    {"error", "llm_api_error", "invalid_llm_response", "invalid_tool_call", "no_tool_call"},
)
_CODE = re.compile(r"([A-Z_]+): ")
_REJECTED = frozenset({400, 413, 414, 415})
_NOT_AN_AGENT = frozenset({400, 422})
_NOT_FOR_US = frozenset({401, 403, 405, 407})
_BY_PROXIES = frozenset({408, 502, 504})
"""Said by Letta they are the end of the turn; said by a proxy, only that it stopped waiting for the end."""
_LAST_OF_LETTA = 504

# Matched only at the start: further in, a provider may be quoting the message itself.
_AWAITS_APPROVAL = "CONFLICT: Cannot send a new message: The agent is waiting for approval"
_IS_BUSY = "CONFLICT: Cannot send a new message: Another request"
_INVALID_AGENT = "INVALID_ARGUMENT: Invalid agent ID format"
_OVERFLOW = "CONTEXT_WINDOW_EXCEEDED"
_EMPTY = "Message content is empty or invalid"
_MALFORMED_AGENT = "'agent_id')"
_NO_ROUTE = "Not Found"
"""What the web framework says of a path it does not serve; Letta's own 404s name what they did not find."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One refusal, as it came over the wire."""

    status: int
    body: object
    retry_after: str | None = None
    date: str | None = None
    """The server's own clock, for a Retry-After that is a date."""

    @property
    def detail(self) -> object:
        """What Letta itself said, or None."""
        return self.body.get("detail") if isinstance(self.body, Mapping) else None

    @property
    def model_error(self) -> Mapping[str, object] | None:
        """What Letta passes on about the model, or None."""
        error = self.body.get("error") if isinstance(self.body, Mapping) else None
        return error if isinstance(error, Mapping) and isinstance(error.get("type"), str) else None

    @property
    def has_no_route(self) -> bool:
        """Whether the server does not know the path at all."""
        unnamed = self.detail is None or self.detail == _NO_ROUTE
        return self.status == HTTPStatus.NOT_FOUND and unnamed and self.model_error is None


def answer_of(error: letta_client.APIStatusError) -> Answer:
    """The refusal behind an SDK exception."""
    headers = error.response.headers
    return Answer(error.status_code, error.body, headers.get("retry-after"), headers.get("date"))


def from_exception(error: Exception, *, run_id: str | None = None, hidden: str | None = None) -> Outcome:
    """The outcome of a call that raised. `hidden` is the message's content, blotted out of every detail."""
    if not isinstance(error, letta_client.APIStatusError):
        return broken(error, run_id)
    if error.status_code == HTTPStatus.OK:  # the stream was opened: an error event inside it
        return from_event(error.body, hidden=hidden)
    return from_answer(answer_of(error), hidden=hidden)


def from_answer(answer: Answer, *, hidden: str | None = None) -> Outcome:
    """The outcome of a call that was refused."""
    wait = retry_after_ms(answer.retry_after, answer.date)
    if answer.model_error is not None:
        return _from_model(answer.model_error, wait, hidden)
    detail = answer.detail
    if isinstance(detail, Mapping) and detail.get("code") == "PENDING_APPROVAL":
        return AwaitsApproval(words(str(detail.get("message", "")), hidden))
    return _from_letta(answer, detail if isinstance(detail, str) else "", wait, hidden)


def _from_letta(answer: Answer, text: str, wait: int | None, hidden: str | None) -> Outcome:
    """Letta's own refusal, or that of something in between, which leaves no `detail`."""
    status, said = answer.status, f"{answer.status} {words(text, hidden)}".strip()
    if status in _NOT_AN_AGENT and (_MALFORMED_AGENT in text or text.startswith(_INVALID_AGENT)):
        return Rejected(Cause.UNKNOWN_AGENT, f"{status} not an agent id")
    match status:
        case HTTPStatus.CONFLICT:
            return _from_conflict(answer.body, text, said, wait)
        case HTTPStatus.TOO_MANY_REQUESTS | HTTPStatus.PAYMENT_REQUIRED:
            return Throttled(said, wait, whole_tenant=True)
        case HTTPStatus.NOT_FOUND:
            return _from_missing(answer, text, said)
        case HTTPStatus.UNPROCESSABLE_ENTITY:
            return Rejected(Cause.REJECTED, f"422 {words(_places(text), hidden)}")
        case _:
            return _by_status(status, said, wait, spoken=bool(text))


def _by_status(status: int, said: str, wait: int | None, *, spoken: bool) -> Outcome:
    if status in _REJECTED:
        return Rejected(Cause.REJECTED, said)
    if status in _NOT_FOR_US or status < HTTPStatus.BAD_REQUEST:
        detail = f"{said} (check LETTA_BASE_URL and LETTA_API_KEY)"
        return Failed(detail, wait, counts=False, trouble=Trouble.AWAY)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return Failed(said, wait, counts=False, trouble=Trouble.ILL)
    if (status in _BY_PROXIES and not spoken) or status > _LAST_OF_LETTA:
        return FateUnknown(f"{status} from something in between")
    return Failed(said, wait, trouble=Trouble.ILL if status >= HTTPStatus.INTERNAL_SERVER_ERROR else None)


def from_event(body: object, *, hidden: str | None = None) -> Outcome:
    """The outcome of a stream that ended in an error event, or of a run stored as failed.

    Both forms occur: the event's dict, and (runs of blocking calls) only its text.
    """
    if isinstance(body, Mapping):
        kind = body.get("error_type") or body.get("type") or "internal_error"
        return _from_model({**body, "type": str(kind)}, None, hidden)
    return _from_model({"type": "internal_error", "detail": str(body or "")}, None, hidden)


def from_stop(stop_reason: str, *, hidden: str | None = None) -> Outcome | None:
    """The outcome of a turn that stopped without landing, or None where it landed (LETTA.md section 2)."""
    if stop_reason == "insufficient_credits":
        return _from_model({"type": "llm_insufficient_credits"}, None, hidden)
    if stop_reason == "context_window_overflow_in_system_prompt":
        return _from_model({"type": stop_reason}, None, hidden)
    return Failed(f"stop reason {stop_reason}") if stop_reason in _FAILED_STOPS else None


def retry_after_ms(value: str | None, date: str | None = None) -> int | None:
    """`Retry-After` in milliseconds, from seconds or an HTTP date; None where it says nothing of use.

    A date counts from the server's own `Date`: no clock of ours is involved. At most 24 h.
    """
    if value is None:
        return None
    try:
        wait = float(value) * 1_000
    except ValueError:
        until, since = _moment(value), _moment(date)
        if until is None or since is None:
            return None
        wait = (until - since).total_seconds() * 1_000
    return None if wait != wait else int(max(0.0, min(wait, _LONGEST_WAIT_MS)))  # noqa: PLR0124 - not a number


def _moment(value: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(value or "")
    except ValueError:
        return None


def _from_model(error: Mapping[str, object], wait: int | None, hidden: str | None) -> Outcome:  # noqa: PLR0911
    kind = str(error.get("type"))
    detail = str(error.get("detail") or error.get("message") or "")
    found = _CODE.match(detail)
    code = found.group(1) if found else ""
    said = words(f"{kind}: {detail}" if detail else kind, hidden)
    if detail.startswith(_AWAITS_APPROVAL):
        # A stream has begun before the server notices: it tells by an event what else is a 409.
        return AwaitsApproval(words(detail, hidden))
    if detail.startswith(_IS_BUSY):
        return Busy(words(detail, hidden))
    match kind, code:
        case ("llm_rate_limit" | "llm_insufficient_credits", _) | (
            _,
            "RATE_LIMIT_EXCEEDED" | "PAYMENT_REQUIRED",
        ):
            return Throttled(said, wait, whole_tenant=False)
        case ("llm_bad_request", _) | (_, "INVALID_ARGUMENT") if code != _OVERFLOW and is_broken(said):
            return BrokenHistory(said)
        case ("llm_bad_request" | "context_window_overflow_in_system_prompt", _):
            return Rejected(Cause.REJECTED, said)
        case (_, "INVALID_ARGUMENT" | "CONTEXT_WINDOW_EXCEEDED"):
            # Streams call a model's 400 `llm_error`; only the code in front of the text tells.
            return Rejected(Cause.REJECTED, said)
        case ("stream_task_cancelled", _) | (_, "CONFLICT"):
            return Failed(said, wait, counts=False)
        case _ if detail == _EMPTY:
            return Rejected(Cause.REJECTED, said)
        case _:
            return Failed(said, wait)


def _from_conflict(body: object, text: str, said: str, wait: int | None) -> Outcome:
    run_id = body.get("run_id") if isinstance(body, Mapping) else None
    if run_id is not None or text.startswith(_IS_BUSY):
        return Busy(said, str(run_id) if run_id is not None else None)
    if text.startswith(_AWAITS_APPROVAL):
        return AwaitsApproval(said)
    return Failed(said, wait, counts=False)


def _from_missing(answer: Answer, text: str, said: str) -> Outcome:
    if answer.has_no_route:
        detail = "404 the server does not know this path (check LETTA_BASE_URL)"
        return Failed(detail, counts=False, trouble=Trouble.AWAY)
    if text.startswith("Agent"):
        return Rejected(Cause.UNKNOWN_AGENT, said)
    if text.startswith("Conversation"):
        return Rejected(Cause.REJECTED, said)
    return Failed(said)


def _places(detail: str) -> str:
    """Where a request is malformed. Never the detail itself: it repeats the input."""
    places = re.findall(r"'loc': \(([^)]{0,100})\)", detail)
    return "malformed at " + "; ".join(places) if places else "malformed"
