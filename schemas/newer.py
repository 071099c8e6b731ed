"""Envelopes in the words of a newer version, told from those that are wrong in any version.

A newer version may say more: a higher `schema_version`, a word in a closed set (`kind`, `priority`, `on_unknown`), a
field in an address or a gathering. Only where all that is wrong with an envelope is of this kind, a newer worker may
know better (docs/decisions/0017).
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from schemas.address import AgentAddress, QueueAddress, SelectorAddress, StreamAddress, TeamAddress
from schemas.envelope import SCHEMA_VERSION, Gather

_KNOWN: Final = frozenset(
    name
    for model in (AgentAddress, TeamAddress, SelectorAddress, StreamAddress, QueueAddress, Gather)
    for name in model.model_fields
)
_WORD: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")


def is_of_a_newer_version(document: Mapping[str, Any]) -> bool:
    """Whether it says that it is of a later version of the schema."""
    version = document.get("schema_version")
    return isinstance(version, int) and version > SCHEMA_VERSION


def may_be_newer(document: Any, error: ValidationError) -> bool:
    """Whether a newer version may know all that this one found wrong with a parsed envelope."""
    if not isinstance(document, dict):
        return False
    if is_of_a_newer_version(document):
        return True
    return all(_is_a_new_word(one) for one in error.errors(include_url=False, include_context=False))


def stored_by_a_newer(raw: bytes | None, error: ValidationError) -> bool:
    """The same for an envelope as it was stored."""
    try:
        return may_be_newer(json.loads(raw or b""), error)
    except (ValueError, RecursionError):
        return False


def _is_a_new_word(error: ErrorDetails) -> bool:
    match error["type"]:
        case "enum":
            return _is_word(error["input"])
        case "address":
            said = error["input"]
            return isinstance(said, dict) and any(_is_new_field(name) for name in said)
        case "extra_forbidden":
            return _is_new_field(error["loc"][-1])
        case _:
            return False


def _is_new_field(name: object) -> bool:
    # A word that this version has in another place is a mistake in any version.
    return _is_word(name) and name not in _KNOWN


def _is_word(said: object) -> bool:
    return isinstance(said, str) and _WORD.fullmatch(said) is not None
