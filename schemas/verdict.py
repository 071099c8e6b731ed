"""May this delivery go now? A closed set: every caller matches all of it."""

from dataclasses import dataclass

from schemas.delivery import Cause


@dataclass(frozen=True, slots=True)
class Allow:
    """It may go now."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now: look again after `for_ms`. Costs no attempt."""

    for_ms: int
    cause: Cause
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Drop:
    """Never: the delivery ends here, with this cause."""

    cause: Cause
    detail: str = ""


Verdict = Allow | Wait | Drop
