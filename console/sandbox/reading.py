"""Requests for a turn, read and refused as the real server does it (without pydantic: this path is hot)."""

import json
from dataclasses import dataclass, field
from uuid import uuid4

from starlette.requests import Request

from console.sandbox.errors import detail, invalid
from console.sandbox.nouns import Decision, JsonObject
from console.sandbox.turns import Inbound

_ROLES = frozenset({"user", "system", "assistant"})
_STREAMING_UNSET = (
    "Streaming options set without streaming enabled. {} "
    "Either set streaming=true or use default values for streaming options."
)


@dataclass(slots=True)
class TurnBody:
    """What a request for a turn says."""

    inbound: list[Inbound] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    max_steps: int = 50
    kinds: frozenset[str] | None = None
    client_tools: frozenset[str] = frozenset()
    streaming: bool | None = None
    background: bool = False
    pings: bool = True
    tokens: bool = False
    agent_id: str | None = None
    callback_url: str | None = None

    @property
    def otids(self) -> list[str]:
        """All otids, in order: the key of the de-duplication. An empty otid is stored, but is no key."""
        return [each.otid for each in self.inbound if each.otid]


async def read_object(request: Request) -> JsonObject:
    """The body as an object; no body is an empty one."""
    raw = await request.body()
    if not raw:
        return {}
    try:
        body = json.loads(raw)
    except ValueError as error:
        problem: JsonObject = {
            "type": "json_invalid",
            "loc": ("body", 1),
            "msg": "JSON decode error",
            "input": {},
        }
        raise invalid([{**problem, "ctx": {"error": str(error).split(":", 1)[0]}}]) from None
    if not isinstance(body, dict):
        raise invalid(
            [{"type": "model_attributes_type", "loc": ("body",), "msg": "Input should be a valid dictionary"}]
        )
    return body


async def read_turn(request: Request) -> TurnBody:
    """Read a request for a turn."""
    body = await read_object(request)
    turn = TurnBody()
    turn.max_steps = _integer(body, "max_steps", 50)
    kinds = body.get("include_return_message_types")
    if isinstance(kinds, list):
        turn.kinds = frozenset(str(kind) for kind in kinds)
    tools = body.get("client_tools")
    if isinstance(tools, list):
        turn.client_tools = frozenset(str(tool.get("name")) for tool in tools if isinstance(tool, dict))
    streaming = body.get("streaming")
    turn.streaming = None if streaming is None else bool(streaming)
    turn.background = bool(body.get("background") or False)
    turn.pings = body.get("include_pings") is not False
    turn.tokens = bool(body.get("stream_tokens") or False)
    turn.agent_id = str(body["agent_id"]) if body.get("agent_id") else None
    turn.callback_url = str(body["callback_url"]) if body.get("callback_url") else None
    _read_messages(turn, body)
    return turn


def check_streaming_options(turn: TurnBody) -> None:
    """agents.messages.create refuses streaming options without streaming."""
    problems = []
    if turn.tokens:
        problems.append("stream_tokens can only be true when streaming=true")
    if not turn.pings:
        problems.append("include_pings can only be set to false when streaming=true")
    if turn.background:
        problems.append("background can only be true when streaming=true")
    if problems:
        raise detail(422, _STREAMING_UNSET.format("; ".join(problems) + "."))


def _read_messages(turn: TurnBody, body: JsonObject) -> None:
    messages = body.get("messages")
    if messages is None and body.get("input") is not None:
        messages = [{"role": "user", "content": body["input"]}]
    if messages is None:
        problem = "Value error, Must specify either 'input' or 'messages'."
        raise invalid([{"type": "value_error", "loc": ("body",), "msg": problem, "input": body}])
    if not isinstance(messages, list):
        problem = "Input should be a valid list"
        raise invalid([{"type": "list_type", "loc": ("body", "messages"), "msg": problem, "input": messages}])
    if not messages:
        raise detail(422, "Messages must not be empty")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise _bad_message(index, "Input should be a valid dictionary", message)
        if message.get("type") == "approval":
            turn.decisions += _decisions(message)
        else:
            turn.inbound.append(_inbound(index, message))


def _inbound(index: int, message: JsonObject) -> Inbound:
    role, content = message.get("role", "user"), message.get("content")
    if role not in _ROLES:
        roles = ", ".join(sorted(_ROLES))
        raise _bad_message(index, f"Input should be one of {roles}", role, "role")
    if content is None:
        raise _bad_message(index, "Field required", message, "content")
    text, stored = _text(content)
    return Inbound(
        str(role),
        stored,
        text,
        str(uuid4() if message.get("otid") is None else message["otid"]),
        _optional(message.get("sender_id")),
        _optional(message.get("name")),
    )


def _text(content: object) -> tuple[str, object]:
    """The text the model sees, and the content as it is stored: one text part becomes a plain string."""
    if isinstance(content, str):
        return content, content
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    texts = [str(part.get("text", "")) for part in parts]
    if len(texts) == 1:
        return texts[0], texts[0]
    return "".join(texts), [{"type": "text", "text": text, "signature": None} for text in texts]


def _decisions(message: JsonObject) -> list[Decision]:
    approvals = message.get("approvals")
    if not isinstance(approvals, list):
        approvals = [{**message, "type": "approval", "tool_call_id": message.get("approval_request_id")}]
    decisions = []
    for each in approvals:
        call_id = str(each.get("tool_call_id"))
        if each.get("type") == "tool":
            decisions.append(Decision(call_id, approve=True, tool_return=str(each.get("tool_return", ""))))
        else:
            decisions.append(Decision(call_id, approve=bool(each.get("approve")), reason=_optional(each.get("reason"))))
    return decisions


def _optional(value: object) -> str | None:
    return None if value is None else str(value)


def _integer(body: JsonObject, name: str, default: int) -> int:
    value = body.get(name, default)
    try:
        return int(str(value))
    except ValueError:
        text = "Input should be a valid integer, unable to parse string as an integer"
        raise invalid([{"type": "int_parsing", "loc": ("body", name), "msg": text, "input": value}]) from None


def _bad_message(index: int, text: str, given: object, name: str = "") -> Exception:
    place = ("body", "messages", index, name) if name else ("body", "messages", index)
    return invalid([{"type": "literal_error", "loc": place, "msg": text, "input": given}])
