"""How long to wait before trying again: exponential, capped, with full jitter above a floor. Pure arithmetic."""

from random import Random


def backoff_ms(attempt: int, *, base_ms: int, cap_ms: int, random: Random) -> int:
    """Milliseconds to wait after the `attempt`th failure, counted from 1.

    Between half of base * 2^(attempt - 1), never more than the cap, and the whole of it: apart enough that those
    who failed together do not come back together, and never at once.
    """
    ceiling = min(cap_ms, base_ms * 2 ** min(attempt - 1, 30))
    return int(random.uniform(ceiling / 2, ceiling))
