"""The caller's trace context, for those who use OpenTelemetry: it travels with every call."""

from __future__ import annotations

import sys

from carousel.client._channel import Metadata


def with_trace(metadata: Metadata) -> Metadata:
    """Metadata with `traceparent` (or what the propagators that are set say), if a span is current.

    Whoever has a span has imported OpenTelemetry: nothing of it is imported for anybody else.
    """
    if "opentelemetry.trace" not in sys.modules:
        return metadata
    from opentelemetry import propagate, trace

    if not trace.get_current_span().get_span_context().is_valid:
        return metadata
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return (*metadata, *((key.lower(), value) for key, value in carrier.items()))
