"""What a trial gives back, and how contenders are run: in turns, so that a noisy moment hits them alike."""

import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

ROUNDS = 3

Aim = tuple[Literal[">=", "<="], float]
Contender = Callable[[], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    trial: str
    what: str
    unit: str
    samples: tuple[float, ...]
    """In the order of the rounds."""
    beside: str = ""
    """What the ratio is to: another line of the trial."""
    ratios: tuple[float, ...] = ()
    """This line to the other, round by round."""
    aim: Aim | None = None
    """Of the ratio where there is one, else of the figure."""

    @property
    def value(self) -> float:
        """The median of the rounds."""
        return median(self.samples)

    @property
    def ratio(self) -> float | None:
        """The median of the ratios."""
        return median(self.ratios) if self.ratios else None

    @property
    def met(self) -> bool | None:
        """Whether the aim is reached; None where there is none."""
        if self.aim is None:
            return None
        sign, bound = self.aim
        judged = self.value if self.ratio is None else self.ratio
        return judged >= bound if sign == ">=" else judged <= bound

    def document(self) -> dict[str, object]:
        """For machines."""
        return {
            "trial": self.trial,
            "what": self.what,
            "unit": self.unit,
            "median": self.value,
            "samples": list(self.samples),
            "beside": self.beside or None,
            "ratio": self.ratio,
            "ratios": list(self.ratios),
            "aim": f"{self.aim[0]} {self.aim[1]:g}" if self.aim else None,
            "met": self.met,
        }


def figure(trial: str, what: str, unit: str, samples: Sequence[float], aim: Aim | None = None) -> Row:
    """A line that stands beside no other."""
    return Row(trial=trial, what=what, unit=unit, samples=tuple(samples), aim=aim)


@dataclass(frozen=True, slots=True)
class Race:
    """Contenders that are measured in turns, each once a round."""

    trial: str
    unit: str
    contenders: Mapping[str, Contender]
    beside: Mapping[str, str] = field(default_factory=dict)
    """Which contender is held against which."""
    aims: Mapping[str, Aim] = field(default_factory=dict)

    async def run(self, rounds: int = ROUNDS) -> list[Row]:
        """Runs them all."""
        samples: dict[str, list[float]] = {name: [] for name in self.contenders}
        for number in range(rounds):
            for name, contender in self.contenders.items():
                samples[name].append(await contender())
                tell(f"{self.trial}: {name}: {samples[name][-1]:,.4g} {self.unit} ({number + 1} of {rounds})")
        return [self._row(name, samples) for name in self.contenders]

    def _row(self, name: str, samples: Mapping[str, list[float]]) -> Row:
        other = self.beside.get(name, "")
        pairs = zip(samples[name], samples[other], strict=True) if other else ()
        return Row(
            trial=self.trial,
            what=name,
            unit=self.unit,
            samples=tuple(samples[name]),
            beside=other,
            ratios=tuple(own / its for own, its in pairs),
            aim=self.aims.get(name),
        )


def percentile(samples: list[float], share: float) -> float:
    """The value that so large a share of the samples does not pass."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


_BEGAN_AT = time.monotonic()


def tell(line: str) -> None:
    """Progress, for whoever waits: on stderr, with the seconds since the start."""
    print(f"[{time.monotonic() - _BEGAN_AT:5.0f} s] {line}", file=sys.stderr, flush=True)
