"""What a Letta server's answers mean, over the exact bodies of LETTA.md section 5 and those measured since."""

import json

import httpx
import letta_client
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.delivery import Cause
from schemas.outcome import (
    AwaitsApproval,
    BrokenHistory,
    Busy,
    Failed,
    FateUnknown,
    Outcome,
    Rejected,
    Replied,
    Throttled,
    Trouble,
)
from workers.turn.letta.classify import Answer, from_answer, from_event, from_exception, from_stop, retry_after_ms

RUN = "run-02e84ddb-8629-4ebe-9ad3-460e02a98ae4"
BUSY = (
    f"CONFLICT: Cannot send a new message: Another request (run_id={RUN}) is currently being processed for "
    "this conversation. Please wait for it to complete."
)
APPROVAL = (
    "CONFLICT: Cannot send a new message: The agent is waiting for approval on a tool call. "
    "Please approve or deny the pending request before continuing."
)
STUB = "{'error': {'message': 'stub error', 'type': 'stub_error', 'code': 'stub_error', 'param': None}}"


def model(kind: str, detail: str = "") -> dict[str, object]:
    return {"error": {"type": kind, "message": "what Letta says of it", "detail": detail}}


def kind_of(outcome: Outcome) -> str:
    """An outcome without its words."""
    match outcome:
        case Failed(counts=counts):
            return "failed" if counts else "failed, not counted"
        case Throttled(whole_tenant=whole):
            return "throttled tenant" if whole else "throttled model"
        case Rejected(cause=cause):
            return f"rejected {cause}"
        case Busy() | AwaitsApproval() | BrokenHistory() | FateUnknown() | Replied():
            return type(outcome).__name__


ANSWERS = [
    (404, {"detail": "Agent with ID agent-f882bc1e-de77-4f8f-9e5a-e940082c25d0 not found"}, "rejected unknown_agent"),
    (404, {"detail": "Agent not found"}, "rejected unknown_agent"),
    (404, {"detail": "Conversation not found with id='['conv-..']', access level in ['read']"}, "rejected rejected"),
    (404, {"detail": "Not Found"}, "failed, not counted"),
    (404, "<html>no such page</html>", "failed, not counted"),
    (
        422,
        {"trace_id": "", "detail": "[{'type': 'string_pattern_mismatch', 'loc': ('path', 'agent_id'), 'msg': 'no'}]"},
        "rejected unknown_agent",
    ),
    (400, {"detail": "INVALID_ARGUMENT: Invalid agent ID format: agent-123."}, "rejected unknown_agent"),
    (
        422,
        {"trace_id": "", "detail": "[{'type': 'missing', 'loc': ('body', 'messages'), 'msg': 'no'}]"},
        "rejected rejected",
    ),
    (422, {"detail": "Messages must not be empty"}, "rejected rejected"),
    (400, {"detail": "Message content is empty or invalid"}, "rejected rejected"),
    (413, {"detail": "too large"}, "rejected rejected"),
    (
        409,
        {"detail": {"code": "PENDING_APPROVAL", "message": APPROVAL, "pending_request_id": "message-1"}},
        "AwaitsApproval",
    ),
    (409, {"detail": BUSY, "run_id": RUN}, "Busy"),
    (409, {"detail": BUSY}, "Busy"),
    (
        409,
        {"detail": "The resource is currently locked by another operation. Please retry shortly."},
        "failed, not counted",
    ),
    (409, {"detail": "CONFLICT: Block with id 'b' was updated by another transaction."}, "failed, not counted"),
    (429, model("llm_rate_limit", f"RATE_LIMIT_EXCEEDED: Rate limited by OpenAI: {STUB}"), "throttled model"),
    (429, {"detail": "Too many requests"}, "throttled tenant"),
    (402, model("llm_insufficient_credits"), "throttled model"),
    (402, {"detail": "no credits"}, "throttled tenant"),
    (
        400,
        model("llm_bad_request", f"INVALID_ARGUMENT: Bad request to OpenAI-compatible endpoint: {STUB}"),
        "rejected rejected",
    ),
    (401, model("llm_authentication", f"UNAUTHENTICATED: {STUB}"), "failed"),
    (403, model("bedrock_permission_denied"), "failed"),
    (401, {"detail": "Unauthorized"}, "failed, not counted"),
    (403, {"detail": "Forbidden"}, "failed, not counted"),
    (500, model("llm_error", f"INTERNAL_SERVER_ERROR: OpenAI API error: {STUB}"), "failed"),
    (500, model("llm_error", f"NOT_FOUND: Resource not found in OpenAI: {STUB}"), "failed"),
    (500, {"detail": "An unknown error occurred"}, "failed"),
    (500, "Internal Server Error", "failed"),
    (502, model("mcp_connection_error"), "failed"),
    (504, model("llm_timeout", "TIMEOUT: it took too long"), "failed"),
    (503, {"detail": "The database is temporarily unavailable. Please try again later."}, "failed, not counted"),
    (503, "<html>no upstream</html>", "failed, not counted"),
    (502, "<html>bad gateway</html>", "FateUnknown"),
    (504, "<html>gateway timeout</html>", "FateUnknown"),
    (520, "<html>who knows</html>", "FateUnknown"),
    (307, "", "failed, not counted"),
]


@pytest.mark.parametrize(("status", "body", "expected"), ANSWERS)
def test_a_refusal_means(status: int, body: object, expected: str) -> None:
    assert kind_of(from_answer(Answer(status, body))) == expected


@pytest.mark.parametrize(("status", "body", "expected"), ANSWERS)
def test_the_sdk_keeps_the_meaning(status: int, body: object, expected: str) -> None:
    response = httpx.Response(status, request=httpx.Request("POST", "http://letta"))
    error = letta_client.APIStatusError("no", response=response, body=body)
    assert kind_of(from_exception(error)) == expected


def event(kind: str, detail: str, message: str = "what Letta says of it") -> dict[str, object]:
    return {"message_type": "error_message", "run_id": RUN, "error_type": kind, "message": message, "detail": detail}


EVENTS = [
    (event("llm_rate_limit", f"RATE_LIMIT_EXCEEDED: Rate limited by OpenAI: {STUB}"), "throttled model"),
    (event("llm_error", f"INTERNAL_SERVER_ERROR: OpenAI API error: {STUB}"), "failed"),
    (event("llm_error", f"INVALID_ARGUMENT: Bad request to OpenAI-compatible endpoint: {STUB}"), "rejected rejected"),
    (event("llm_error", "NOT_FOUND: Resource not found in OpenAI"), "failed"),
    (event("llm_authentication", f"UNAUTHENTICATED: {STUB}"), "failed"),
    (event("llm_timeout", "TIMEOUT: too long"), "failed"),
    (event("internal_error", APPROVAL, APPROVAL), "AwaitsApproval"),
    (event("internal_error", "Message content is empty or invalid"), "rejected rejected"),
    (event("internal_error", "KeyError('x')"), "failed"),
    (event("context_window_overflow_in_system_prompt", "too long"), "rejected rejected"),
    (event("stream_incomplete", ""), "failed"),
    (event("stream_task_cancelled", ""), "failed, not counted"),
    (APPROVAL, "AwaitsApproval"),
    (f"RATE_LIMIT_EXCEEDED: Rate limited by OpenAI: {STUB}", "throttled model"),
    (f"INVALID_ARGUMENT: Bad request to OpenAI-compatible endpoint: {STUB}", "rejected rejected"),
    ("Message content is empty or invalid", "rejected rejected"),
    ("", "failed"),
    (None, "failed"),
]


@pytest.mark.parametrize(("body", "expected"), EVENTS)
def test_an_error_event_or_a_failed_run_means(body: object, expected: str) -> None:
    assert kind_of(from_event(body)) == expected


def test_an_error_event_comes_as_a_status_error_of_200() -> None:
    response = httpx.Response(200, request=httpx.Request("POST", "http://letta"))
    body = event("llm_rate_limit", "RATE_LIMIT_EXCEEDED: slow down")
    assert kind_of(from_exception(letta_client.APIStatusError("no", response=response, body=body))) == "throttled model"


def test_busy_names_the_other_run() -> None:
    assert from_answer(Answer(409, {"detail": BUSY, "run_id": RUN})) == Busy(f"409 {BUSY}", RUN)


@pytest.mark.parametrize("quoted", [APPROVAL, BUSY, "Message content is empty or invalid"])
def test_a_message_cannot_choose_its_outcome_by_being_quoted(quoted: str) -> None:
    said = f"INTERNAL_SERVER_ERROR: the provider could not read: {quoted}"
    assert kind_of(from_event(event("llm_error", said))) == "failed"
    assert kind_of(from_answer(Answer(500, model("llm_error", said)))) == "failed"
    assert kind_of(from_answer(Answer(409, {"detail": f"no: {quoted}"}))) == "failed, not counted"


@pytest.mark.parametrize("stop", ["end_turn", "tool_rule", "max_steps", "requires_approval", "cancelled"])
def test_a_stop_that_landed(stop: str) -> None:
    assert from_stop(stop) is None


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("error", "failed"),
        ("llm_api_error", "failed"),
        ("invalid_llm_response", "failed"),
        ("insufficient_credits", "throttled model"),
        ("context_window_overflow_in_system_prompt", "rejected rejected"),
    ],
)
def test_a_stop_that_did_not_land(stop: str, expected: str) -> None:
    outcome = from_stop(stop)
    assert outcome is not None
    assert kind_of(outcome) == expected


@pytest.mark.parametrize(
    ("value", "date", "expected"),
    [
        ("7", None, 7_000),
        ("1.5", None, 1_500),
        ("0", None, 0),
        ("-3", None, 0),
        ("Sat, 21 Nov 2026 06:42:22 GMT", "Sat, 21 Nov 2026 06:42:15 GMT", 7_000),
        ("Sat, 21 Nov 2026 06:42:15 GMT", "Sat, 21 Nov 2026 06:42:22 GMT", 0),
        ("Sat, 21 Nov 2026 06:42:22 GMT", None, None),
        ("soon", "Sat, 21 Nov 2026 06:42:15 GMT", None),
        ("9" * 400, None, 86_400_000),
        ("nan", None, None),
        ("inf", None, 86_400_000),
        (None, None, None),
    ],
)
def test_retry_after(value: str | None, date: str | None, expected: int | None) -> None:
    assert retry_after_ms(value, date) == expected


@given(st.text(max_size=40), st.text(max_size=40))
def test_retry_after_never_raises(value: str, date: str) -> None:
    wait = retry_after_ms(value, date)
    assert wait is None or 0 <= wait <= 86_400_000


@pytest.mark.parametrize(
    ("status", "body", "trouble"),
    [
        (500, {"detail": "An internal error"}, Trouble.ILL),
        (503, {"detail": "Service unavailable"}, Trouble.ILL),
        (401, {"detail": "Unauthorized"}, Trouble.AWAY),
        (404, "<html>no such page</html>", Trouble.AWAY),
        (500, model("llm_error", "INTERNAL_SERVER_ERROR: OpenAI"), None),
        (504, model("llm_timeout"), None),
        (409, {"detail": "A database deadlock was detected."}, None),
    ],
)
def test_the_servers_own_trouble_is_told_from_its_models(status: int, body: object, trouble: Trouble | None) -> None:
    outcome = from_answer(Answer(status, body))

    assert isinstance(outcome, Failed)
    assert outcome.trouble is trouble


def test_retry_after_reaches_the_outcome() -> None:
    throttled = from_answer(Answer(429, {"detail": "Too many requests"}, retry_after="7"))
    assert throttled == Throttled("429 Too many requests", 7_000, whole_tenant=True)
    locked = from_answer(Answer(409, {"detail": "A database deadlock was detected."}, retry_after="1"))
    assert locked == Failed("409 A database deadlock was detected.", 1_000, counts=False)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["detail", "error", "type", "code", "run_id", "message"]), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(status=st.integers(300, 599), body=json_values)
def test_no_answer_is_too_strange_and_no_detail_too_long(status: int, body: object) -> None:
    outcome = from_answer(Answer(status, body))
    assert not isinstance(outcome, Replied)
    assert len(outcome.detail) <= 600
    assert not isinstance(from_event(body), Replied)


PRIVATE = "the patient's name is Wilhelmina Featherstonehaugh and nobody may know it"


@pytest.mark.parametrize("status", [400, 409, 422, 429, 500, 503])
@pytest.mark.parametrize("shape", ["detail", "error", "malformed"])
def test_no_detail_repeats_the_message(status: int, shape: str) -> None:
    quoting = f"could not read {json.dumps([PRIVATE])} at all"
    body = {
        "detail": dict[str, object](detail=quoting),
        "error": model("llm_error", f"INVALID_ARGUMENT: {quoting}"),
        "malformed": {"detail": f"[{{'loc': ('body', 'messages'), 'input': '{PRIVATE}'}}]"},
    }[shape]
    outcome = from_answer(Answer(status, body), hidden=PRIVATE)
    assert not isinstance(outcome, Replied)
    assert "Wilhelmina" not in outcome.detail
    assert "Featherstonehaugh" not in outcome.detail


def test_an_unknown_agent_is_the_cause_it_says() -> None:
    outcome = from_answer(Answer(404, {"detail": "Agent not found"}))
    assert isinstance(outcome, Rejected)
    assert outcome.cause is Cause.UNKNOWN_AGENT


BAD = "INVALID_ARGUMENT: Bad request to"
BROKEN = [
    f"{BAD} Anthropic: Error code: 400 - {{'message': '{said}'}}"
    for said in (
        "messages.166: tool_use ids were found without tool_result blocks immediately after: functions_Bash_3.",
        "messages.2: `tool_use` ids were found without `tool_result` blocks immediately after: toolu_01.",
        "messages.8.content.0: unexpected `tool_use_id` found in `tool_result` blocks: toolu_01.",
        "messages: text content blocks must be non-empty",
        "messages: text content blocks must contain non-whitespace text",
        "messages: final assistant content cannot end with trailing whitespace",
    )
] + [
    f"{BAD} OpenAI-compatible endpoint: Error code: 400 - {{'error': {{'message': \"{said}\"}}}}"
    for said in (
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'.",
        "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.",
        "No tool call found for function call output with call_id call_1.",
        "No tool output found for function call call_1.",
        "Please ensure that the number of function response parts is equal to the number of function call parts",
    )
]


@pytest.mark.parametrize("detail", BROKEN)
def test_a_history_that_the_model_refuses_is_told_from_a_message_that_it_refuses(detail: str) -> None:
    """As an answer, as an event of a stream, and as the text of a stored run."""
    answer = from_answer(Answer(400, model("llm_bad_request", detail)))
    assert isinstance(answer, BrokenHistory)
    assert answer.detail.startswith("llm_bad_request: INVALID_ARGUMENT")
    assert kind_of(from_event({"error_type": "llm_error", "detail": detail})) == "BrokenHistory"
    assert kind_of(from_event(detail)) == "BrokenHistory"


@pytest.mark.parametrize("detail", BROKEN)
def test_a_full_context_is_no_broken_history(detail: str) -> None:
    full = detail.replace("INVALID_ARGUMENT", "CONTEXT_WINDOW_EXCEEDED")
    body = model("llm_bad_request", full if full.startswith("CONTEXT") else f"CONTEXT_WINDOW_EXCEEDED: {full}")
    assert kind_of(from_answer(Answer(400, body))) == "rejected rejected"


def test_a_message_that_quotes_the_signature_parks_nobody() -> None:
    """Providers quote the prompt in their errors."""
    content = "please explain: tool_use ids were found without tool_result blocks immediately after"
    detail = f"INVALID_ARGUMENT: Bad request to Anthropic: Error code: 400 - cannot read {content!r}"
    assert kind_of(from_answer(Answer(400, model("llm_bad_request", detail)), hidden=content)) == "rejected rejected"


def test_the_same_words_behind_another_failure_are_a_failure() -> None:
    detail = BROKEN[0].replace("INVALID_ARGUMENT", "INTERNAL_SERVER_ERROR")
    assert kind_of(from_answer(Answer(500, model("llm_error", detail)))) == "failed"
