"""Sizes at which to look twice (STYLE section 7): a file or a function that grows past them lacks a name."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE_LINES = 400
WORKERS_LINES = 300
FUNCTION_LINES = 50
TURN_RUN_LINES = 200
"""Past this, a step of the turn is missing a name."""
LONGER = {"agent_json": 60, "send": 80}
"""Functions that are one record, field by field, or the options of one command."""
LARGER: dict[str, int] = {}
"""Files that are larger for now, each with the size it may not pass."""


def sources() -> Iterator[Path]:
    for package in ("schemas", "workers", "orchestrator", "console", "bench"):
        yield from (ROOT / package).rglob("*.py")


FILES = {str(path.relative_to(ROOT)): path for path in sources()}


def allowed(name: str) -> int:
    if name == "workers/turn/run.py":
        return TURN_RUN_LINES
    return LARGER.get(name, WORKERS_LINES if name.startswith("workers/") else FILE_LINES)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_is_no_longer_than_one_can_read_at_once(name: str) -> None:
    assert len(FILES[name].read_text().splitlines()) <= allowed(name)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_function_is_no_longer_than_a_screen(name: str) -> None:
    long = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for node in ast.walk(ast.parse(FILES[name].read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > LONGER.get(node.name, FUNCTION_LINES)
    }

    assert long == {}


def test_what_may_be_larger_is_larger_still() -> None:
    """A file that has shrunk leaves the list."""
    for name in LARGER:
        assert len(FILES[name].read_text().splitlines()) > FILE_LINES
