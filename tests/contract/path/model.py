"""A model of the tests' own behind a real Letta's agents, as strict about a history as the providers are.

It speaks OpenAI's chat completions on loopback and does what the directives of console/sandbox/directives.py say in
the last user message. A `[[delay n]]` in an agent's system prompt slows that agent; `[[overflow]]` in a message is
answered as a prompt that does not fit.
"""

import asyncio
import json
import re
import threading
import time
from collections import Counter
from typing import Any, Self
from uuid import uuid4

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from console.sandbox.directives import Script, echo, read_script
from tests.support.redis_server import free_port

CONTEXT_WINDOW = 32_000
NAME = "strict"
OVERFLOW = "[[overflow]]"
_SLOW = re.compile(r"\[\[delay ([\d.]+)\]\]")
_TOO_LONG = (
    f"This model's maximum context length is {CONTEXT_WINDOW} tokens. However, your messages resulted in "
    f"{CONTEXT_WINDOW + 1} tokens. Please reduce the length of the messages."
)


class StrictModel:
    """The server, in a thread; `begun` holds the user message of every turn that has reached it, in order."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._failed: Counter[str] = Counter()
        self._port = free_port()
        app = Starlette(routes=[Route("/v1/chat/completions", self._chat, methods=["POST"])])
        config = uvicorn.Config(app, port=self._port, log_config=None, access_log=False, timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    @property
    def llm_config(self) -> dict[str, object]:
        """What an agent is made with to have this model behind it."""
        endpoint = f"http://127.0.0.1:{self._port}/v1"
        kind = {"model": NAME, "model_endpoint_type": "openai", "context_window": CONTEXT_WINDOW}
        return {**kind, "model_endpoint": endpoint}

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started:
            assert time.monotonic() < deadline, "the model did not start"
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        messages = body["messages"]
        last = max(index for index, one in enumerate(messages) if one["role"] == "user")
        text = _text(messages[last])
        script = read_script(text)
        step = sum(1 for one in messages[last:] if one.get("tool_calls"))
        if not step:
            self.begun.append(text)
        if (complaint := complaint_about(messages)) is not None:
            return _refusal(400, complaint, "invalid_request_error")
        slow = _SLOW.search(_text(messages[0]))
        await asyncio.sleep(script.delay_seconds + (float(slow.group(1)) if slow else 0.0))
        if OVERFLOW in text:
            return _refusal(400, _TOO_LONG, "invalid_request_error", "context_length_exceeded")
        if self._fails(script):
            return _refusal(script.status or 500, f"a failure of the model: {script.status}", "server_error")
        return _answer(body, script, step)

    def _fails(self, script: Script) -> bool:
        if script.status is None:
            return False
        self._failed[script.text] += 1
        return script.status_times is None or self._failed[script.text] <= script.status_times


def complaint_about(messages: list[dict[str, Any]]) -> str | None:
    """What a provider says of a history in which a tool call and its result are not next to each other, or None."""
    unanswered: list[str] = []
    for one in messages:
        if one["role"] == "tool":
            if one.get("tool_call_id") not in unanswered:
                return (
                    "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with "
                    "'tool_calls'."
                )
            unanswered.remove(one["tool_call_id"])
        elif unanswered:
            return (
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                "'tool_call_id'. The following tool_call_ids did not have response messages: " + ", ".join(unanswered)
            )
        else:
            unanswered = [call["id"] for call in one.get("tool_calls") or []]
    return None


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _refusal(status: int, message: str, kind: str, code: str | None = None) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": code}}, status)


def _answer(body: dict[str, Any], script: Script, step: int) -> Response:
    message: dict[str, Any] = {"role": "assistant", "content": None}
    reason = "stop"
    if step < len(script.tools):
        name, arguments = script.tools[step]
        call = {"id": f"call_{uuid4().hex[:24]}", "type": "function"}
        message["tool_calls"] = [{"index": 0, **call, "function": {"name": name, "arguments": arguments}}]
        reason = "tool_calls"
    else:
        message["content"] = script.say or echo(script.text)
    head = {"id": f"chatcmpl-{uuid4().hex[:24]}", "created": int(time.time()), "model": NAME}
    usage = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
    if not body.get("stream"):
        choice = {"index": 0, "message": message, "finish_reason": reason}
        return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
    head["object"] = "chat.completion.chunk"
    chunks = [
        {**head, "choices": [{"index": 0, "delta": message, "finish_reason": None}]},
        {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
        {**head, "choices": [], "usage": usage},
    ]
    events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return StreamingResponse(iter([*events, "data: [DONE]\n\n"]), media_type="text/event-stream")
