"""How the demo looks: calm lines, one thing at a time; silent where one JSON document is wanted."""

import asyncio
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.rule import Rule
from rich.text import Text

from console.output import pairs, plain_table, safe, state_text
from console.times import span
from schemas.delivery import State

SIMULATED = "The agents are SIMULATED: a sandbox Letta on this machine, no language model."
WIDEST = 100
BAR = 40
BREATH_SECONDS = 0.7


class Show:
    """What a person sees."""

    def __init__(self, *, silent: bool) -> None:
        self.console = Console(highlight=False, quiet=silent)
        self._number = 0

    def opening(self, parts: Sequence[tuple[str, str]]) -> None:
        """The top: what this is, what runs."""
        self.console.print(Text("\nPostroom, live", style="bold"))
        self.console.print(Text(SIMULATED, style="bold yellow"))
        self.console.print(pairs(parts))

    def act(self, title: str, what: str) -> None:
        """The beginning of one thing to see."""
        self._number += 1
        self.console.print()
        self.console.print(Rule(Text(f" {self._number}  {title} ", style="bold"), align="left", style="bright_black"))
        self._paragraph("   ", what, "dim")

    def event(self, label: str, state: State, after_ms: int, why: str) -> None:
        """One change of state, when it happens."""
        line = Text(f"   {'+' + span(after_ms / 1000):>8}  ", style="dim")
        line.append(f"{safe(label):<22} ", style="default")
        line.append_text(state_text(state))
        if why:
            line.append(f"{'':<{10 - len(state)}} {safe(why)}", style="dim")
        self.console.print(line, overflow="ellipsis", no_wrap=True)

    def quote(self, who: str, text: str, lines: int = 6) -> None:
        """What somebody said."""
        said = [line for line in safe(text).splitlines() if line.strip()]
        self.console.print(Text(f"             {safe(who)}:", style="dim"))
        for line in said[:lines]:
            self.console.print(Text(f"             │ {line}", style="italic"), overflow="ellipsis", no_wrap=True)
        if len(said) > lines:
            self.console.print(Text("             │ …", style="dim"))

    def note(self, text: str) -> None:
        """A word in between."""
        self._paragraph("   ", text, "dim")

    def result(self, said: str, *, as_expected: bool) -> None:
        """How it went."""
        self._paragraph("   ✓ " if as_expected else "   ✗ ", said, "green" if as_expected else "bold red")

    async def breathe(self) -> None:
        """Time to read, where somebody does."""
        if self.console.is_terminal and not self.console.quiet:
            await asyncio.sleep(BREATH_SECONDS)

    def _paragraph(self, lead: str, text: str, style: str) -> None:
        """A sentence under its lead, however many lines it takes."""
        width = max(min(self.console.width, WIDEST), 40)
        lines = textwrap.wrap(safe(text), width - len(lead)) or [""]
        for number, line in enumerate(lines):
            self.console.print(Text((lead if number == 0 else " " * len(lead)) + line, style=style), soft_wrap=True)

    @contextmanager
    def counting(self, total: int, what: str) -> Iterator["Bar"]:
        """A bar that moves on a terminal, and is not there elsewhere."""
        bar = Bar(total, what)
        if not self.console.is_terminal or self.console.quiet:
            yield bar
            return
        with Live(bar, console=self.console, refresh_per_second=20, transient=True):
            yield bar

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
        """The account at the end."""
        table = plain_table(*headers)
        for number, column in enumerate(table.columns):
            column.justify = "left" if number == 0 else "right"
            column.no_wrap = True
        for row in rows:
            table.add_row(*row)
        self.console.print()
        self.console.print(Rule(style="bright_black"))
        self.console.print(table)

    def closing(self, verdict: Text, commands: Sequence[str]) -> None:
        """The bottom: the verdict, and what to try next."""
        self.console.print()
        self.console.print(verdict)
        self.console.print(Text(SIMULATED, style="bold yellow"))
        self.console.print(Text("\nTry next:", style="dim"))
        for command in commands:
            self.console.print(Text(f"  {command}"), soft_wrap=True)
        self.console.print()


class Bar:
    """How many of a known number."""

    def __init__(self, total: int, what: str) -> None:
        self.done = 0
        self._total = total
        self._what = what

    def __rich__(self) -> Text:
        filled = BAR * self.done // self._total
        line = Text("             ")
        line.append("━" * filled, style="green")
        line.append("━" * (BAR - filled), style="bright_black")
        return line.append(f"  {self.done} of {self._total} {self._what}", style="default")
