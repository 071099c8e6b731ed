"""An export that is cut never looks whole."""

from pathlib import Path

import pytest

from console.commands.leaving import _target
from workers.errors import RefusedError


def cut(target: Path) -> None:
    with _target(str(target)) as file:
        file.write("half")
        raise KeyboardInterrupt


def test_a_file_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "acme.jsonl"
    target.write_text("the last one")
    with pytest.raises(KeyboardInterrupt):
        cut(target)
    assert [path.name for path in tmp_path.iterdir()] == ["acme.jsonl"]
    assert target.read_text() == "the last one"

    with _target(str(target)) as file:
        file.write("whole")
        assert target.read_text() == "the last one"
    assert target.read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["acme.jsonl"]


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="cannot be written"), _target(str(tmp_path / "none" / "acme.jsonl")):
        pass
