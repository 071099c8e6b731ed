"""deploy/env.example documents every setting, with its default, and nothing else."""

import re
from pathlib import Path

from pydantic import SecretStr

from workers.settings import Settings, variable

EXAMPLE = Path(__file__).parents[2] / "deploy" / "env.example"


def described() -> dict[str, tuple[str, str]]:
    """Each variable with the comment above it and its value."""
    found = {}
    comment = ""
    for line in EXAMPLE.read_text().splitlines():
        if line.startswith("# ") and "=" not in line.split()[1]:
            comment = line.removeprefix("# ")
        elif match := re.fullmatch(r"#? ?([A-Z_]+)=(.*)", line):
            found[match[1]] = (comment, match[2])
    return found


def default_of(field: str) -> str:
    """The default as it would stand in the environment."""
    default = Settings.model_fields[field].default
    if default is None:
        return ""
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    if isinstance(default, bool):
        return str(default).lower()
    return ",".join(default) if isinstance(default, tuple) else str(default)


def test_every_setting_stands_in_the_example_and_nothing_else() -> None:
    assert set(described()) == {variable(field) for field in Settings.model_fields}


def test_the_example_says_what_the_settings_say() -> None:
    wanted = {variable(name): (field.description, default_of(name)) for name, field in Settings.model_fields.items()}

    assert described() == wanted
