"""Traces: W3C context from publish to reply, spans by OpenTelemetry's messaging conventions.

Exported by OTLP where the standard variable OTEL_EXPORTER_OTLP_ENDPOINT is set. A dead backend slows nothing:
spans are queued, and dropped when the queue is full. Attributes are ids and outcomes, never content.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.context import Context as OtelContext
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from schemas.context import Context, TraceContext
from schemas.envelope import Trace
from workers.log import Opaque

_PROPAGATOR = TraceContextTextMapPropagator()


class Telemetry:
    """Makes the spans of one process."""

    def __init__(self, opaque: Opaque, role: str) -> None:
        self._opaque = opaque
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "postroom", "service.instance.id": role}),
            shutdown_on_exit=False,
        )
        if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
            self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("postroom")

    @contextmanager
    def span(self, context: Context, name: str, kind: SpanKind, **attributes: str | int) -> Iterator["Running"]:
        """One span under the context's trace, or the root of a new one. Yields what to hand on."""
        span = self._tracer.start_span(
            name,
            context=_parent(context.trace),
            kind=kind,
            attributes={
                "messaging.system": "postroom",
                "postroom.tenant": self._opaque(context.tenant),
                **{
                    f"messaging.{key}" if key == "message.id" else f"postroom.{key}": value
                    for key, value in attributes.items()
                },
            },
        )
        running = Running(span)
        try:
            yield running
        finally:
            span.end()

    def close(self) -> None:
        """Sends what is queued and ends."""
        self._provider.shutdown()


class Running:
    """A span that has begun."""

    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        self._span = span

    def tell(self, **attributes: str | int) -> None:
        """Adds attributes: ids, sizes, outcomes."""
        for key, value in attributes.items():
            self._span.set_attribute(f"postroom.{key}", value)

    @property
    def trace(self) -> TraceContext:
        """The context to hand on, so that what follows is this span's child."""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, context=set_span_in_context(self._span))
        return TraceContext(carrier["traceparent"], carrier.get("tracestate"))


def trace_of(trace: Trace | None) -> TraceContext | None:
    """From the envelope to the context."""
    return None if trace is None else TraceContext(trace.traceparent, trace.tracestate)


def to_envelope(trace: TraceContext | None) -> Trace | None:
    """From the context to the envelope."""
    return None if trace is None else Trace(traceparent=trace.traceparent, tracestate=trace.tracestate)


def _parent(trace: TraceContext | None) -> OtelContext | None:
    if trace is None:
        return None
    carrier = {"traceparent": trace.traceparent}
    if trace.tracestate:
        carrier["tracestate"] = trace.tracestate
    return extract(carrier)
