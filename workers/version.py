"""Which version this is, and which of two came later."""

import re
from importlib.metadata import version


def own() -> str:
    """The version that is installed."""
    return version("postroom")


def numbers(text: str) -> tuple[int, ...]:
    """A version's leading numbers, to compare: `1.10.0rc1` as (1, 10, 0). What is no version comes before all."""
    found = re.match(r"[0-9]{1,9}(\.[0-9]{1,9}){0,5}", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
