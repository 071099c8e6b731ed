"""How everything looks: tables, documents, plain lines. The one place that knows of colours and widths."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.delivery import State

Row = TypeVar("Row")

COLUMN_GAP = 2
UNLIMITED = 10_000
"""The width of a pipe: whoever reads it next wants whole ids."""
STATE_STYLES: dict[State, str] = {
    State.ACCEPTED: "blue",
    State.WAITING: "yellow",
    State.RUNNING: "cyan",
    State.DELIVERED: "green",
    State.EXPIRED: "magenta",
    State.REFUSED: "red",
    State.DEAD: "bold red",
    State.CANCELLED: "bright_black",
    State.UNKNOWN: "bold red",
}

err = Console(stderr=True, highlight=False)


def out() -> Console:
    """The console on stdout as it is now: a terminal with its width, or a pipe that has none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=UNLIMITED)


class Form(StrEnum):
    """`-o`: how a listing is printed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    NAME = "name"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """One column of a listing."""

    header: str
    value: Callable[[Row], str | Text]
    wide: bool = False
    """Only with `-o wide`."""
    right: bool = False


@dataclass(frozen=True, slots=True)
class Listing(Generic[Row]):
    """How rows of one kind are shown."""

    columns: Sequence[Column[Row]]
    name: Callable[[Row], str]
    document: Callable[[Row], Any]
    nothing: str
    """What to say, on stderr, where there is none: with what to do."""

    def show(self, rows: Sequence[Row], form: Form) -> None:
        """Prints the rows."""
        if form is Form.JSON:
            print_json([self.document(row) for row in rows])
        elif form is Form.CSV:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(column.header for column in self.columns)
            writer.writerows([str(column.value(row)) for column in self.columns] for row in rows)
        elif form is Form.NAME:
            for row in rows:
                print(safe(self.name(row)))
        elif not rows:
            err.print(self.nothing, style="dim", markup=False)
        else:
            self._print(rows, wide=form is Form.WIDE)

    def _print(self, rows: Sequence[Row], *, wide: bool) -> None:
        """Nothing is cut, whatever the width: who copies an id wants all of it."""
        columns = [column for column in self.columns if wide or not column.wide]
        cells = [[_cell(column.value(row)) for column in columns] for row in rows]
        table, kept = plain_table(*(column.header for column in columns)), -COLUMN_GAP
        for column, drawn, values in zip(columns, table.columns, zip(*cells, strict=True), strict=True):
            drawn.justify = "right" if column.right else "left"
            drawn.no_wrap = True
            kept += max(len(column.header), *(value.cell_len for value in values)) + COLUMN_GAP
        for row in cells:
            table.add_row(*row)
        # Where the terminal is narrower, it wraps the lines by itself.
        Console(highlight=False, width=max(out().width, kept)).print(table)


def plain_table(*headers: str) -> Table:
    """Columns without lines, as people know them from kubectl."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, COLUMN_GAP, 0, 0))
    for header in headers:
        table.add_column(header.upper())
    return table


def pairs(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """A description: names on the left, values on the right."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, _cell(value))
    return table


def print_json(document: Any) -> None:
    """One document on stdout, and nothing else."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    print(json.dumps(document, indent=2, ensure_ascii=not encoding.startswith("utf"), default=str))


def print_text(text: str) -> None:
    """What an agent or a person wrote: byte for byte into a pipe, harmless on a terminal."""
    if sys.stdout.isatty():
        out().print(Text(safe(text)), soft_wrap=True)
    else:
        print(text)


def state_text(state: State) -> Text:
    """A state in its colour."""
    return Text(state.value, style=STATE_STYLES[state])


def safe(text: str) -> str:
    """The text without what would steer a terminal or turn its order around; what was there stays visible."""
    return "".join(_shown(letter) for letter in text)


def _shown(letter: str) -> str:
    code = ord(letter)
    if letter in "\n\t" or (code >= ord(" ") and not _steers(code)):
        return letter
    return chr(0x2400 + code) if code < ord(" ") else "\N{REPLACEMENT CHARACTER}"


def _steers(code: int) -> bool:
    # DEL and C1 controls, the directional marks of Unicode, lone surrogates.
    return (
        0x7F <= code <= 0x9F or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069 or 0xD800 <= code <= 0xDFFF  # noqa: PLR2004
    )


def _cell(value: str | Text) -> Text:
    return value if isinstance(value, Text) else Text(safe(value))
