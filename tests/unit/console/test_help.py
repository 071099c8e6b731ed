"""Every command helps: with a sentence, an example, and `--json`."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from console.main import app
from console.running import Ending

ROOT: Any = typer.main.get_command(app)


def commands(group: Any, path: str = "postroom") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


ALL = dict(commands(ROOT))


def test_the_commands_are_those_of_the_readme() -> None:
    assert {path.split()[1] for path in ALL} == {
        *("demo", "up", "serve", "sandbox", "send", "get", "describe", "cancel", "tenant", "team", "doctor", "schema"),
        *("dead", "agent", "bulk", "audit", "repair", "messages", "history"),
    }


@pytest.mark.parametrize("path", sorted(ALL))
def test_a_command_shows_an_example_of_itself(path: str) -> None:
    assert path in ALL[path].help


@pytest.mark.parametrize("path", sorted(ALL))
def test_a_command_takes_json(path: str) -> None:
    assert any("--json" in parameter.opts for parameter in ALL[path].params)


async def test_the_first_signal_asks_and_the_second_insists() -> None:
    ending = Ending()
    ending.ask()
    assert (ending.asked.is_set(), ending.insisted.is_set()) == (True, False)
    ending.ask()
    assert ending.insisted.is_set()
