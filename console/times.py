"""Times as people write and read them: `10m`, `+5m`, `3 min ago`. Pure, but for the zone of this machine."""

import re
from datetime import UTC, datetime, timedelta

_UNITS_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB)?")
_SIZES_BYTES = {None: 1, "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def parse_duration(text: str) -> float:
    """Seconds from `90s`, `10m`, `1h30m`, `2d`, `250ms`, or a bare number of seconds.

    Raises:
        ValueError: it is none of these, or not above zero.
    """
    compact = text.strip().replace(" ", "")
    try:
        seconds = float(compact) if re.fullmatch(r"\d+(\.\d+)?", compact) else _sum_of_parts(compact)
    except OverflowError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"expected a time such as 30s, 10m or 1h30m, got {text!r}")
    return seconds


def _sum_of_parts(compact: str) -> float:
    parts = _PART.findall(compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        return 0.0
    return sum(float(number) * _UNITS_SECONDS[unit] for number, unit in parts)


def parse_when(text: str, now: datetime) -> datetime:
    """A time from ISO 8601 (without a zone: this machine's) or from `+5m`, counted from `now`.

    Raises:
        ValueError: it is neither.
    """
    stripped = text.strip()
    if stripped.startswith("+"):
        try:
            return now + timedelta(seconds=parse_duration(stripped[1:]))
        except OverflowError:
            raise ValueError(f"{text!r} is too far away") from None
    try:
        when = datetime.fromisoformat(stripped)
    except ValueError:
        raise ValueError(f"expected a time such as 2026-01-31T09:00 or +5m, got {text!r}") from None
    return when if when.tzinfo else when.astimezone()


def parse_since(text: str, now: datetime) -> datetime:
    """The past from `10m` (ago) or ISO 8601.

    Raises:
        ValueError: it is neither.
    """
    try:
        return now - timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        return parse_when(text, now)


def parse_size(text: str) -> int:
    """Bytes from `1048576`, `64MiB`, `1GiB`.

    Raises:
        ValueError: it is none of these.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"expected bytes such as 1048576, 64MiB or 1GiB, got {text!r}")
    return int(match[1]) * _SIZES_BYTES[match[2]]


def size_text(size: int) -> str:
    """Bytes for people."""
    for unit in ("GiB", "MiB", "KiB"):
        if size >= _SIZES_BYTES[unit]:
            value = size / _SIZES_BYTES[unit]
            return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"
    return f"{size} B"


def local_iso(at_ms: int) -> str:
    """Epoch milliseconds as ISO 8601 in this machine's zone, to the millisecond."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().isoformat(timespec="milliseconds")


def clock_time(at_ms: int) -> str:
    """Only the hour, minute and second, in this machine's zone."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().strftime("%H:%M:%S")


def span(seconds: float) -> str:
    """A length of time in one or two units: `38 ms`, `4.2 s`, `3 min`, `2 h 5 min`, `6 d`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:  # noqa: PLR2004
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if minutes < 120:  # noqa: PLR2004
        return f"{minutes} min"
    if hours < 48:  # noqa: PLR2004
        return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"
    return f"{days} d"


def relative(at_ms: int, now_ms: int) -> str:
    """`3 s ago` or `in 4 min`."""
    return f"{span((now_ms - at_ms) / 1000)} ago" if at_ms <= now_ms else f"in {span((at_ms - now_ms) / 1000)}"
