"""Query parameters and paging, as the real server's lists read them."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from starlette.requests import Request

from console.sandbox.errors import invalid
from console.sandbox.nouns import JsonObject
from console.sandbox.world import World


class _HasId(Protocol):
    id: str


T = TypeVar("T", bound=_HasId)


def world_of(request: Request) -> World:
    """The world this application serves."""
    world: World = request.app.state.world
    return world


def flag(request: Request, name: str) -> bool | None:
    """A boolean parameter, or None when it is not given."""
    text = request.query_params.get(name)
    return None if text is None else text.lower() in {"true", "1", "yes"}


def count(request: Request, name: str, default: int, *, least: int | None = None) -> int:
    """A whole number, with the server's 422 for anything else."""
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        message = "Input should be a valid integer, unable to parse string as an integer"
        raise invalid([_problem(name, "int_parsing", message, text)]) from None
    if least is not None and value < least:
        message = f"Input should be greater than or equal to {least}"
        raise invalid([_problem(name, "greater_than_equal", message, text)])
    return value


def one_of(request: Request, name: str, allowed: Sequence[str]) -> str:
    """A parameter with a closed set of values; the first one is the default."""
    text = request.query_params.get(name, allowed[0])
    if text not in allowed:
        shown = ", ".join(repr(each) for each in sorted(allowed))
        raise invalid([_problem(name, "literal_error", f"Input should be {shown}", text)])
    return text


def several(request: Request, name: str, allowed: frozenset[str] | None = None) -> list[str]:
    """A repeated parameter; unknown values are refused when the set is closed."""
    values = request.query_params.getlist(name)
    for index, value in enumerate(values):
        if allowed is not None and value not in allowed:
            shown = ", ".join(repr(each) for each in sorted(allowed))
            raise invalid([_problem(name, "literal_error", f"Input should be {shown}", value, index)])
    return values


def page(rows: list[T], *, after: str | None, before: str | None, limit: int) -> list[T]:
    """One page of rows that are already in the order asked for; an unknown cursor is ignored."""
    start, end = _positions(rows, after, before)
    rows = rows[start:end]
    return rows[:limit] if limit else rows


def chronological_page(
    rows: list[T], *, after: str | None, before: str | None, limit: int, newest_first: bool
) -> list[T]:
    """One page of rows held oldest first, whose cursors mean later and earlier whatever the order shown."""
    start, end = _positions(rows, after, before)
    chosen = rows[start:end]
    if newest_first:
        chosen.reverse()
    return chosen[:limit] if limit else chosen


def _positions(rows: list[T], after: str | None, before: str | None) -> tuple[int, int]:
    start, end = 0, len(rows)
    for index, row in enumerate(rows if after or before else ()):
        if row.id == after:
            start = index + 1
        if row.id == before:
            end = index
    return start, end


def _problem(name: str, kind: str, message: str, given: str, index: int | None = None) -> JsonObject:
    place = ("query", name) if index is None else ("query", name, index)
    return {"type": kind, "loc": place, "msg": message, "input": given}
