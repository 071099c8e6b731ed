"""The agent's thread, read for one message and what followed it (LETTA.md section 2)."""

from datetime import UTC, datetime
from typing import Any

import letta_client
from letta_client import AsyncLetta

from schemas.outcome import Replied
from workers.turn.letta.contract import Call
from workers.turn.letta.reading import Reading

_MOST_PAGES = 20
_STOPS = {"assistant_message": "end_turn", "approval_request_message": "requires_approval"}
"""What the last message of a turn says of its end. After a tool's return nobody knows."""


async def thread_from(client: AsyncLetta, call: Call, *, since: datetime, page_size: int) -> list[Any]:
    """The call's message in its agent's thread and what followed it; empty where it is not there.

    Backwards by hand, page by page, and without the server's filter: it thins a page after cutting it,
    so that a page without user messages would look like the end (measured). Goes back to `since`.
    """
    after: list[Any] = []
    before: str | letta_client.Omit = letta_client.omit
    for _ in range(_MOST_PAGES):
        page = await client.agents.messages.list(call.agent, order="desc", limit=page_size, before=before)
        if not page.items:
            break
        # Newest page first, but oldest message first within it: sorted, in case a server does otherwise.
        items = sorted(page.items, key=date_of)
        after = items + after
        for index, message in enumerate(items):
            if is_from_user(message) and message.otid == call.otid:
                return after[index:]
        if date_of(items[0]) < since or items[0].id == before:
            break
        before = items[0].id
    return []


def user_otids(messages: list[Any]) -> set[str | None]:
    """The otids of the messages that users sent."""
    return {message.otid for message in messages if is_from_user(message)}


def is_from_user(message: Any) -> bool:
    """Whether a user, or the server in a user's place, said it."""
    return getattr(message, "message_type", None) == "user_message"


def date_of(message: Any) -> datetime:
    """When it was said, by the server's clock; without a date it counts as new."""
    date = getattr(message, "date", None)
    if not isinstance(date, datetime):
        return datetime.max.replace(tzinfo=UTC)
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def reply_in(found: list[Any]) -> Replied | None:
    """The reply in a thread that starts with our message, if the turn is over."""
    run_id = getattr(found[0], "run_id", None)
    turn: list[Any] = []
    for message in found[1:]:
        if is_from_user(message) or (run_id and getattr(message, "run_id", None) != run_id):
            break
        turn.append(message)
    stop_reason = _STOPS.get(getattr(turn[-1], "message_type", "")) if turn else None
    if stop_reason is None:
        return None
    reading = Reading(run_id=run_id)
    reading.take_all(turn)
    return Replied(reading.text, stop_reason, run_id)
