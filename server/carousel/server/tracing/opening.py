"""Where traces go: to an OTLP collector, by the settings and the standard OTEL_ environment."""

from __future__ import annotations

import logging
import os
from importlib.metadata import version

from carousel.server.settings import Settings
from carousel.server.tracing.trace import NO_TRACER, Tracer

log = logging.getLogger("carousel.traces")

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
MISSING = "traces need the otel extra: pip install 'carousel-rnn[otel]' ({} is missing)"


class TracingError(Exception):
    """Traces can't be exported as asked for; the message says why."""


def open_tracer(settings: Settings, *, instance_id: str) -> Tracer:
    """A tracer that exports, where an endpoint is given; else one that does nothing.

    Raises TracingError.
    """
    if not (settings.otlp_endpoint or _given(*ENDPOINTS)) or _is_disabled():
        return NO_TRACER
    try:
        return _exporting(settings, instance_id)
    except ModuleNotFoundError as error:
        if settings.otlp_endpoint is None:  # the environment may speak to other programs too
            log.warning(MISSING.format(error.name))
            return NO_TRACER
        raise TracingError(MISSING.format(error.name)) from error


def _exporting(settings: Settings, instance_id: str) -> Tracer:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    from carousel.server.tracing.spans import SpanTracer

    protocol = _given(*PROTOCOLS)
    if settings.otlp_endpoint is None and protocol not in ("", "grpc"):
        raise TracingError(f"the protocol of OTLP must be grpc, got {protocol!r} ({PROTOCOLS[1]})")
    own = {
        "service.name": "carousel",
        "service.version": version("carousel-rnn"),
        "service.instance.id": instance_id,
    }
    ratio = settings.trace_ratio
    provider = TracerProvider(
        resource=Resource.create(own).merge(OTELResourceDetector().detect()),
        sampler=None if ratio is None else ParentBasedTraceIdRatio(ratio),
        shutdown_on_exit=False,  # a collector that is down must not hold the end up
    )
    exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return SpanTracer(provider, exporter)


def _given(*names: str) -> str:
    """The first of these variables that is set."""
    return next((value for name in names if (value := os.environ.get(name, "").strip())), "")


def _is_disabled() -> bool:
    exporter = _given("OTEL_TRACES_EXPORTER")
    return _given("OTEL_SDK_DISABLED").lower() == "true" or exporter == "none"
