"""The table for people, and a plot of the ratios in letters."""

import math
from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.measure import Row

PLOT_COLUMNS = 40
PLOT_FROM, PLOT_TO = 0.01, 100.0
"""The plot's ends: ratios, on a scale of powers of ten, with 1 in the middle."""


def show(rows: Sequence[Row], console: Console) -> None:
    """Prints both."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("trial", "what"):
        table.add_column(name)
    for name in ("median", "unit", "spread", "ratio"):
        table.add_column(name, justify="right" if name != "unit" else "left")
    for name in ("beside", "aim", ""):
        table.add_column(name)
    for trial, lines in groupby(rows, key=lambda row: row.trial):
        for number, row in enumerate(lines):
            table.add_row("" if number else trial, *(escape(cell) for cell in _cells(row)))
    console.print(table)
    compared = [row for row in rows if row.ratio is not None]
    if compared:
        console.print("\n[bold]Ratios[/bold]: left of | less than the peer, right of it more (each step ten times)\n")
        width = max(len(row.what) for row in compared)
        for row in compared:
            console.print(f"{row.what:<{width}}  {plotted(row.ratio or 0)} {row.ratio:.3g}", markup=False)


def number(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004  # from three digits on


def plotted(ratio: float) -> str:
    """One ratio as a bar from the middle, which is 1."""
    share = (math.log(min(max(ratio, PLOT_FROM), PLOT_TO)) - math.log(PLOT_FROM)) / math.log(PLOT_TO / PLOT_FROM)
    at, middle = round(share * PLOT_COLUMNS), PLOT_COLUMNS // 2
    line = [" "] * (PLOT_COLUMNS + 1)
    for column in range(min(at, middle), max(at, middle) + 1):
        line[column] = "="
    line[middle] = "|"
    return "".join(line)


def _cells(row: Row) -> tuple[str, ...]:
    spread = f"{number(min(row.samples))} to {number(max(row.samples))}" if len(row.samples) > 1 else ""
    ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
    aim = f"{row.aim[0]} {row.aim[1]:g}" if row.aim else ""
    met = {None: "", True: "met", False: "missed"}[row.met]
    return (row.what, number(row.value), row.unit, spread, ratio, row.beside, aim, met)
