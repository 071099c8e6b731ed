"""The door: bytes in, envelope out, or a clear refusal that names the field.

Everything a producer can get wrong is found here, before anything is stored or looked up.
"""

import json
import math
import re
from typing import Any, NoReturn

from pydantic import ValidationError

from schemas.address import TAG_MARK
from schemas.context import Context
from schemas.delivery import Cause
from schemas.envelope import MAX_CONTENT_BYTES, MAX_METADATA_BYTES, SCHEMA_VERSION, Envelope
from schemas.ids import is_message_id
from schemas.newer import is_of_a_newer_version, may_be_newer
from workers.errors import InvalidEnvelopeError

MAX_ENTRY_BYTES = 6 * MAX_CONTENT_BYTES + 2 * MAX_METADATA_BYTES
"""JSON may escape one byte of content as six."""
MAX_DEPTH = 32
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")


class Refusal(InvalidEnvelopeError):  # noqa: N818  # what it is called everywhere
    """Not an envelope of this tenant. `cause` goes to the dead letter, `message_id` too where one was readable."""

    def __init__(self, message: str, *, where: str | None = None, cause: Cause = Cause.INVALID) -> None:
        super().__init__(message, where=where)
        self.cause = cause
        self.message_id: str | None = None


class Newer(Refusal):
    """All that is wrong with it is that a newer version may know more: whoever can, leaves it for one that does."""


def read(context: Context, raw: bytes | str) -> Envelope:
    """Reads one envelope.

    Raises:
        Refusal: what was wrong and where; the words quote at most the name of a field, never the content.
    """
    size = len(raw if isinstance(raw, bytes) else raw.encode(errors="replace"))
    if size > MAX_ENTRY_BYTES:
        raise Refusal(f"{size} bytes, more than {MAX_ENTRY_BYTES}", where="message")
    document = _parse(raw)
    try:
        return check(context, document)
    except Refusal as refusal:
        said = document.get("id")
        refusal.message_id = said if isinstance(said, str) and is_message_id(said) else None
        raise


def check(context: Context, document: dict[str, Any]) -> Envelope:
    """Validates a parsed envelope for this tenant.

    Raises:
        Refusal: what was wrong and where.
    """
    _check_shape(document)
    said = document.get("tenant")
    if said is not None and said != context.tenant:
        raise Refusal("is not this stream's", where="tenant", cause=Cause.TENANT_MISMATCH)
    version = document.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        came = str(version)[:20] if isinstance(version, int) else type(version).__name__
        kind = Newer if is_of_a_newer_version(document) else Refusal
        raise kind(f"this version reads {SCHEMA_VERSION}, not {came}", where="schema_version")
    try:
        envelope = Envelope.model_validate(document)
    except ValidationError as error:
        _refuse(error, Newer if may_be_newer(document, error) else Refusal)
    _check_room(envelope.metadata, "metadata")
    _check_room(envelope.model_extra or {}, "unknown fields")
    return envelope


def _check_room(fields: dict[str, Any], where: str) -> None:
    """What is kept and not counted as content has a bound of its own; and what Python gave may not be JSON."""
    try:
        size = len(json.dumps(fields)) if fields else 0
    except (TypeError, ValueError):
        raise Refusal("not JSON", where=where) from None
    if size > MAX_METADATA_BYTES:
        raise Refusal(f"more than {MAX_METADATA_BYTES} bytes", where=where)


def _parse(raw: bytes | str) -> dict[str, Any]:
    try:
        text = raw.decode() if isinstance(raw, bytes) else raw
    except UnicodeDecodeError as error:
        raise Refusal(f"not UTF-8 at byte {error.start}", where="message") from None
    try:
        document = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise Refusal(f"not JSON: {error.msg} at character {error.pos}", where="message") from None
    except RecursionError:
        raise Refusal(f"nested deeper than {MAX_DEPTH}", where="message") from None
    except ValueError as error:
        # A number too long to convert: json hands on int()'s own words, which quote nothing.
        raise Refusal(f"not JSON: {str(error)[:80]}", where="message") from None
    if not isinstance(document, dict):
        raise Refusal("expected a JSON object", where="message")
    return document


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Two readers may pick different ones of two equal keys; nobody gets to play them off (FAULTS.md attack 1).
    document = dict(pairs)
    if len(document) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                cause = Cause.TENANT_MISMATCH if name == "tenant" else Cause.INVALID
                # What cannot be encoded could not be written to the dead letters.
                where = name[:64].encode(errors="replace").decode()
                raise Refusal("stands twice", where=where, cause=cause)
            seen.add(name)
    return document


def _no_constant(name: str) -> NoReturn:
    raise Refusal(f"{name} is not JSON", where="message")


def _check_shape(document: dict[str, Any]) -> None:
    """Depth, and text that cannot be stored: without recursion, so that no input is too deep for it."""
    stack: list[tuple[Any, int]] = [(document, 1)]
    while stack:
        value, depth = stack.pop()
        if isinstance(value, str):
            if not value.isascii() and _HALF_A_PAIR.search(value):
                raise Refusal("half of a surrogate pair", where="message")
        elif isinstance(value, dict | list):
            if depth > MAX_DEPTH:
                raise Refusal(f"nested deeper than {MAX_DEPTH}", where="message")
            if isinstance(value, dict):
                stack.extend((name, depth + 1) for name in value)
                stack.extend((inner, depth + 1) for inner in value.values())
            else:
                stack.extend((inner, depth + 1) for inner in value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise Refusal("a number too large", where="message")


def _refuse(error: ValidationError, kind: type[Refusal]) -> NoReturn:
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    named = [str(part)[:64] for part in first["loc"] if not str(part).startswith(TAG_MARK)]
    where = ".".join(named) or "message"
    message = first["msg"].removeprefix("Value error, ")
    more = error.error_count() - 1
    raise kind(f"{message}{f' (and {more} more)' if more else ''}", where=where) from None
