"""What a delivery costs: processor time of Redis and of each process, which a busy machine does not change."""

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.arena import Arena, Child
from bench.measure import Row, figure

MICROSECONDS = 1e6


class Costs:
    """Collects them over the rounds of a trial."""

    def __init__(self, trial: str) -> None:
        self._trial = trial
        self._micros: defaultdict[str, list[float]] = defaultdict(list)
        self._commands: defaultdict[str, list[float]] = defaultdict(list)

    @asynccontextmanager
    async def of(self, who: str, arena: Arena, messages: int, *children: Child) -> AsyncIterator[None]:
        """What the block costs, for each of so many messages."""
        before = await arena.spent(*children)
        yield
        spent = (await arena.spent(*children)).since(before)
        for role, seconds in spent.children.items():
            self._micros[f"{who}: {role}"].append(seconds / messages * MICROSECONDS)
        self._micros[f"{who}: Redis"].append(spent.redis / messages * MICROSECONDS)
        self._commands[f"{who}: commands in Redis"].append(spent.commands / messages)

    def rows(self) -> list[Row]:
        """As lines of the table."""
        micros = [figure(self._trial, what, "µs of CPU", samples) for what, samples in self._micros.items()]
        return [*micros, *(figure(self._trial, what, "each", samples) for what, samples in self._commands.items())]
