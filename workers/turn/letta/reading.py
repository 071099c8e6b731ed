"""Reads what a turn says, from a stream of events or from a list of messages, into an Outcome."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from letta_client import AsyncStream

from schemas.outcome import FateUnknown, Outcome, Replied, Usage
from workers.turn.letta.classify import from_stop
from workers.turn.letta.network import TROUBLE


class StreamError(Exception):
    """The stream broke, or the server ended it with an error event: `reason` is what the SDK raised."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(type(reason).__name__)
        self.reason = reason


async def events_of(stream: AsyncStream[Any]) -> AsyncGenerator[object]:
    """The stream's events, and its close. Its trouble comes as `StreamError`, apart from the reader's own."""
    try:
        while True:
            try:
                event = await anext(stream)
            except StopAsyncIteration:
                return
            except TROUBLE as error:
                raise StreamError(error) from error
            yield event
    finally:
        with suppress(*TROUBLE):
            await stream.close()


@dataclass(slots=True)
class Reading:
    """One turn as far as it has been read. Filled event by event, so that a cut leaves what was known."""

    run_id: str | None = None
    stop_reason: str | None = None
    usage: Usage = field(default_factory=Usage)
    _texts: dict[str, str] = field(default_factory=dict)

    def take(self, event: object) -> None:
        """One event or message of the turn; what is of no interest here is passed over."""
        run_id = getattr(event, "run_id", None)
        if self.run_id is None and isinstance(run_id, str):
            self.run_id = run_id
        match getattr(event, "message_type", None):
            case "assistant_message":
                self._take_text(event)
            case "stop_reason":
                reason = getattr(event, "stop_reason", None)
                self.stop_reason = str(reason) if reason else self.stop_reason
            case "usage_statistics":
                self.usage = usage_of(event)
            case _:
                pass

    def take_all(self, events: Iterable[object]) -> None:
        """Several at once."""
        for event in events:
            self.take(event)

    @property
    def text(self) -> str:
        """The turn's texts, a blank line between them (LETTA.md section 2)."""
        return "\n\n".join(text for text in self._texts.values() if text)

    def outcome(self, *, hidden: str | None = None) -> Outcome:
        """How the turn ended. Without a stop reason nobody said that it did."""
        if self.stop_reason is None:
            return FateUnknown("the answer ended without a stop reason", self.run_id)
        failed = from_stop(self.stop_reason, hidden=hidden)
        return failed or Replied(self.text, self.stop_reason, self.run_id, self.usage)

    def _take_text(self, event: object) -> None:
        """Pieces under one id are one text; without an id each is its own."""
        key = getattr(event, "id", None) or f"text-{len(self._texts)}"
        self._texts[key] = self._texts.get(key, "") + text_of(getattr(event, "content", None))


def text_of(content: object) -> str:
    """The text of a message's content: a string, or parts of which some hold text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(str(getattr(part, "text", None) or "") for part in content)


def usage_of(statistics: object) -> Usage:
    """Usage as any of the SDK's shapes tells it; what is missing is 0."""

    def count(name: str) -> int:
        value = getattr(statistics, name, None)
        return value if isinstance(value, int) else 0

    return Usage(
        prompt_tokens=count("prompt_tokens"),
        completion_tokens=count("completion_tokens"),
        total_tokens=count("total_tokens"),
        steps=count("step_count"),
    )
