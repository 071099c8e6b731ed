"""Options that several commands share, spelled once."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import typer

from console.output import Form
from console.times import parse_duration, parse_since, parse_size, parse_when

Value = TypeVar("Value")


def _checked(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    def parsed(text: str) -> Value:
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return parsed


duration = _checked(parse_duration)
size = _checked(parse_size)
when = _checked(lambda text: parse_when(text, datetime.now(UTC)))
since = _checked(lambda text: parse_since(text, datetime.now(UTC)))


def reply_address(text: str) -> dict[str, str]:
    """An address that can take a reply, as people type it: `researcher`, `team:editorial/lead`, `stream:crm`.

    An agent whose name begins like one of the others is told from it by `agent:`.
    """
    form, colon, name = text.partition(":")
    match form if colon else "":
        case "team":
            team, slash, role = name.partition("/")
            return {"team": team, "role": role} if slash else {"team": team}
        case "agent" | "stream" | "queue":
            return {form: name}
        case _:
            return {"agent": text}


TenantOption = Annotated[
    str | None, typer.Option("--tenant", "-t", help="The tenant; POSTROOM_TENANT says it for all commands.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
FormOption = Annotated[Form, typer.Option("--output", "-o", help="How to print it.")]


def form_of(form: Form, *, as_json: bool) -> Form:
    """`--json` and `-o json` are the same."""
    return Form.JSON if as_json else form
