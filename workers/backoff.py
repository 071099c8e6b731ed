"""How long a failed delivery waits before its next attempt."""

from collections.abc import Callable

_FLOOR = 0.1
"""Share of the step that is always waited: full jitter alone may come back at once."""
_MOST_DOUBLINGS = 62
"""Past any cap in milliseconds; keeps the arithmetic small for absurd attempts."""


def backoff_ms(
    attempt: int,
    *,
    base_ms: int,
    cap_ms: int,
    random: Callable[[], float],
    retry_after_ms: int | None = None,
) -> int:
    """Milliseconds to wait after the `attempt`th failure, counted from 1.

    Full jitter: evenly spread between a tenth of the step and the step, which doubles from `base_ms` up to
    `cap_ms`, so that what failed together does not come back together. `random` gives numbers from 0 up to 1.
    What the server asked for (`retry_after_ms`) wins where it is longer, even beyond the cap: coming sooner
    is certain to be refused.
    """
    if attempt < 1 or base_ms < 1 or cap_ms < base_ms:
        raise ValueError(f"expected attempt >= 1 and 1 <= base <= cap, got {attempt}, {base_ms}, {cap_ms}")
    step = min(cap_ms, base_ms << min(attempt - 1, _MOST_DOUBLINGS))
    floor = max(1, int(step * _FLOOR))
    wait = floor + int((step - floor) * random())
    return max(wait, retry_after_ms or 0)
