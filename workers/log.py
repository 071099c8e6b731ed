"""Logs for people and machines: ids and outcomes, an opaque tenant id, never content or secrets.

An allow-list decides which fields may appear; everything else is withheld by name.
"""

import hashlib
import logging
import sys
import traceback
from typing import TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, FilteringBoundLogger, WrappedLogger

from schemas.context import Context
from workers.settings import Settings

ALLOWED = frozenset(
    {
        *("event", "level", "timestamp", "logger", "exception", "stack"),
        *("tenant", "trace_id", "role", "process", "service", "pool", "version", "pid"),
        *("message", "delivery", "agent", "run", "entry", "job", "token", "attempt", "epoch"),
        *("state", "cause", "status", "outcome", "result", "error", "error_type", "redis", "letta"),
        *("count", "size", "seconds", "ms", "in_flight", "limit", "tenants", "pools", "address", "signal"),
        *("recipients", "replies", "missing", "code", "leases", "streams"),
    }
)
REMEMBERED = 10_000
_QUIET = ("arq", "httpx", "httpcore", "aiohttp", "uvicorn", "uvicorn.access", "uvicorn.error", "asyncio")


class Opaque:
    """Tenant ids as they may appear in logs and traces: a keyed hash, the same wherever the key is."""

    def __init__(self, key: str) -> None:
        self._key = hashlib.blake2b(key.encode(), digest_size=32).digest()
        self._known: dict[str, str] = {}
        """Every span and line of a tenant needs it; never more than so many are remembered."""

    def __call__(self, tenant: str) -> str:
        known = self._known.get(tenant)
        if known is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            known = self._known[tenant] = self._of(tenant)
        return known

    def _of(self, tenant: str) -> str:
        return "t-" + hashlib.blake2b(tenant.encode(), key=self._key, digest_size=6).hexdigest()


def configure(settings: Settings, stream: TextIO | None = None) -> None:
    """Sets up structlog and routes the libraries' loggers through it, at warning and above."""
    out = stream or sys.stderr
    renderer = _renderer(settings, out)
    structlog.configure(
        processors=[*_SHARED, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_level(settings)),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_SHARED, processors=[_drop_record, renderer])
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in _QUIET:
        # arq logs arguments and results at info (HAZARDS.md A23); the others log URLs.
        logging.getLogger(name).setLevel(logging.WARNING)


def withhold_unknown(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Keeps the fields of the allow-list; the rest is named and withheld."""
    unknown = [name for name in event if name not in ALLOWED and not name.startswith("_")]
    for name in unknown:
        event[name] = "<withheld>"
    return event


def _where_and_what_kind(exc_info: ExcInfo) -> str:
    """A traceback without the words of the exceptions: pydantic's quote what it read, anybody's may."""
    told, seen = [], set[int]()
    error: BaseException | None = exc_info[1]
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        told.append("".join(traceback.format_tb(error.__traceback__)) + type(error).__name__)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\nafter:\n\n".join(told)


_SHARED: list[structlog.typing.Processor] = [
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.ExceptionRenderer(_where_and_what_kind),
    withhold_unknown,
]


def _renderer(settings: Settings, out: TextIO) -> structlog.typing.Processor:
    if settings.log_format == "json":
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=out.isatty())


def _level(settings: Settings) -> int:
    return logging.getLevelNamesMapping()[settings.log_level.upper()]


def _drop_record(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return structlog.stdlib.ProcessorFormatter.remove_processors_meta(_logger, _method, event)


class Log:
    """A process's logger. Every line about a tenant is written through `of(context)`."""

    def __init__(self, settings: Settings, **bound: str) -> None:
        self.opaque = Opaque(settings.log_key.get_secret_value())
        self._logger: FilteringBoundLogger = _logger_for(settings).bind(**bound)

    @property
    def process(self) -> FilteringBoundLogger:
        """For lines about this process, not about a tenant."""
        return self._logger

    def of(self, context: Context) -> FilteringBoundLogger:
        """For lines about a tenant."""
        bound = self._logger.bind(tenant=self.opaque(context.tenant))
        if context.trace is not None:
            bound = bound.bind(trace_id=context.trace.traceparent[3:35])
        return bound


def _logger_for(settings: Settings) -> FilteringBoundLogger:
    """The configured logger; in somebody else's program, which we do not configure, one of our own on stderr."""
    if structlog.is_configured():
        configured: FilteringBoundLogger = structlog.get_logger()
        return configured
    own: FilteringBoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(sys.stderr),
        processors=[*_SHARED, _renderer(settings, sys.stderr)],
        wrapper_class=structlog.make_filtering_bound_logger(_level(settings)),
    )
    return own
