"""Logs, traces and metrics: structlog JSON to stdout, OpenTelemetry over OTLP, W3C context over HTTP and AMQP.

The only module that imports OpenTelemetry. Prompts, answers and secrets are never logged or put on spans.
"""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from libs.common.settings import TelemetrySettings

Attributes = Mapping[str, str | int | float | bool]

_propagator = TraceContextTextMapPropagator()
_tracer = trace.get_tracer("ollamamax")


def _add_trace_id(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = format(span.trace_id, "032x")
    return event


def configure_logging(service: str, instance: str, level: str) -> None:
    """One JSON object a line on stdout, ours and the libraries' alike."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace_id,
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for noisy in ("aio_pika", "aiormq", "httpx", "httpcore", "uvicorn.access", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(service=service, instance=instance)


@contextmanager
def open_telemetry(service: str, instance: str, level: str, settings: TelemetrySettings) -> Iterator[None]:
    """Logging, and a tracer provider that exports when an endpoint is set; flushed at the end."""
    configure_logging(service, instance, level)
    if settings.exporter_otlp_endpoint is None:
        yield
        return
    provider = TracerProvider(
        resource=Resource.create({"service.name": f"ollamamax-{service}", "service.instance.id": instance}),
        sampler=ParentBased(TraceIdRatioBased(settings.traces_sampler_arg)),
        shutdown_on_exit=False,
    )
    endpoint = settings.exporter_otlp_endpoint.rstrip("/") + "/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=5)))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()


def inject_trace(headers: dict[str, str]) -> None:
    """Add ``traceparent`` of the current span to outgoing headers."""
    _propagator.inject(headers)


@contextmanager
def _span(name: str, kind: SpanKind, headers: Mapping[str, Any], attributes: Attributes) -> Iterator[Span]:
    parent = _propagator.extract({k: str(v) for k, v in headers.items() if k in ("traceparent", "tracestate")})
    with _tracer.start_as_current_span(
        name, context=parent, kind=kind, attributes=dict(attributes), set_status_on_exception=False
    ) as span:
        yield span


@contextmanager
def server_span(name: str, headers: Mapping[str, str], attributes: Attributes | None = None) -> Iterator[Span]:
    """The span of one request at our door; continues the caller's trace if it sent one."""
    with _span(name, SpanKind.SERVER, headers, attributes or {}) as span:
        yield span


@contextmanager
def consumer_span(name: str, headers: Mapping[str, Any], attributes: Attributes | None = None) -> Iterator[Span]:
    """The span of handling one message; nothing is recorded for messages that carry no trace."""
    if "traceparent" not in headers:
        yield trace.INVALID_SPAN
        return
    with _span(name, SpanKind.CONSUMER, headers, attributes or {}) as span:
        yield span


@contextmanager
def internal_span(
    name: str, attributes: Attributes | None = None, *, traceparent: str | None = None, links: tuple[str, ...] = ()
) -> Iterator[Span]:
    """A step of ours: child of the current span, or of ``traceparent`` if given; ``links`` are earlier traceparents."""
    parent = _propagator.extract({"traceparent": traceparent}) if traceparent else None
    linked = [Link(span_context_of(link)) for link in links]
    with _tracer.start_as_current_span(
        name, context=parent, kind=SpanKind.INTERNAL, attributes=dict(attributes or {}), links=linked
    ) as span:
        yield span


def span_context_of(traceparent: str) -> trace.SpanContext:
    return trace.get_current_span(_propagator.extract({"traceparent": traceparent})).get_span_context()


def current_traceparent() -> str | None:
    """The current span as a W3C header value, to be kept with work that goes on later."""
    headers: dict[str, str] = {}
    _propagator.inject(headers)
    return headers.get("traceparent")


@contextmanager
def as_current(traceparent: str | None) -> Iterator[None]:
    """Make a remembered span the parent of what happens in the block."""
    if traceparent is None:
        yield
        return
    token = otel_context.attach(_propagator.extract({"traceparent": traceparent}))
    try:
        yield
    finally:
        otel_context.detach(token)


def mark_failed(span: Span, code: str) -> None:
    span.set_status(Status(StatusCode.ERROR, code))
    span.set_attribute("error.type", code)


def mark_current_failed(code: str) -> None:
    """As ``mark_failed``, for the span of whatever runs here."""
    mark_failed(trace.get_current_span(), code)
