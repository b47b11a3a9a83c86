"""Traces as OpenTelemetry's spans: request, and below it queue, turn, commit, commit to store.

The event loop and the engine only note what happened when; a thread of its own makes the spans of
it, and the SDK's thread exports them. Nobody waits for either.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from queue import SimpleQueue
from typing import Any

import grpc
from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    Status,
    StatusCode,
    format_span_id,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from carousel.server.tracing.trace import UNTRACED, Ints, Rider, Trace, Untraced, current

log = logging.getLogger("carousel.traces")

MOST_TURNS = 256  # of one request that get spans: a stream may live for days
MOST_LINKS = 32  # from a turn to the other requests that rode it
MOST_NOTES = 4096  # that wait to become spans
CLOSE_SECONDS = 2.0

# The codes that are the server's fault, by the conventions for gRPC.
FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)


class Unsampled(Untraced):
    """A caller's trace that is not exported; lines of logs name it all the same."""

    def __init__(self, trace_id: int) -> None:
        self._trace_id = trace_id

    def ids(self) -> Mapping[str, str]:
        return {"trace_id": format_trace_id(self._trace_id)}


class SpanTrace:
    """The trace of a request that is exported."""

    is_exported = True

    def __init__(self, tracer: SpanTracer, span: Span, epoch: float) -> None:
        self.context = span.get_span_context()
        self.turns = 0
        self._tracer = tracer
        self._span = span
        self._context = set_span_in_context(span, Context())
        self._epoch = epoch  # seconds that time.monotonic is behind the clock of the world
        self._model = ""

    def ids(self) -> Mapping[str, str]:
        return {
            "trace_id": format_trace_id(self.context.trace_id),
            "span_id": format_span_id(self.context.span_id),
        }

    def set_model(self, name: str) -> None:
        if name != self._model:
            self._model = name
            self._span.set_attribute("carousel.model", name)

    def stored(self, since: float, *, failed: bool) -> None:
        if self.turns <= MOST_TURNS:
            now = time.monotonic()
            self._tracer.note(partial(self.write, "commit to store", since, now, failed=failed))

    def end(self, code: grpc.StatusCode, *, reason: str = "") -> None:
        attributes: dict[str, AttributeValue] = {"rpc.response.status_code": code.name}
        if self.turns:
            attributes["carousel.turns"] = self.turns
        if reason:
            attributes["carousel.reason"] = reason
        if code in FAULTS:
            attributes["error.type"] = code.name
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.set_attributes(attributes)
        self._span.end(self._at(time.monotonic()))

    def write(
        self,
        name: str,
        begin: float,
        end: float,
        attributes: Mapping[str, AttributeValue] | None = None,
        links: Sequence[Link] = (),
        *,
        parent: Context | None = None,
        failed: bool = False,
    ) -> Context:
        """Make a span below the request's, or below `parent`; gives what others can be below of."""
        above = self._context if parent is None else parent
        span = self._tracer.start(name, above, self._at(begin), attributes, links)
        if failed:
            span.set_status(Status(StatusCode.ERROR))
        span.end(self._at(end))
        return set_span_in_context(span, above)

    def _at(self, moment: float) -> int:
        """A moment of time.monotonic in nanoseconds since the epoch."""
        return int((moment + self._epoch) * 1e9)


@dataclass(slots=True, frozen=True)
class _Ride:
    """What a turn was for one of those who are traced."""

    trace: SpanTrace
    waiting_since: float
    items: int


@dataclass(slots=True, frozen=True)
class _Turn:
    """One turn, and those of its riders who are traced."""

    model: str
    batch_size: int
    begin: float
    computed: float
    end: float
    rides: list[_Ride]

    def write(self) -> None:
        """Make its spans in the trace of each, with links to the other requests that rode."""
        links = {ride.trace: Link(ride.trace.context) for ride in self.rides}
        for ride in self.rides:
            trace = ride.trace
            others = [link for other, link in links.items() if other is not trace]
            attributes: dict[str, AttributeValue] = {
                "carousel.model": self.model,
                "carousel.batch_size": self.batch_size,
                "carousel.items": ride.items,
            }
            trace.write("queue", min(ride.waiting_since, self.begin), self.begin)
            turn = trace.write("turn", self.begin, self.end, attributes, others[:MOST_LINKS])
            if self.computed < self.end:
                trace.write("commit", self.computed, self.end, parent=turn)


class SpanTracer:
    """Begins traces and hears of turns; `close` lets go what is left."""

    def __init__(self, provider: TracerProvider, exporter: SpanExporter) -> None:
        self._provider = provider
        self._exporter = exporter
        self._tracer = provider.get_tracer("carousel", version("carousel-rnn"))
        self._notes: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="carousel-traces", daemon=True)
        self._thread.start()

    def begin(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> Trace:
        metadata = context.invocation_metadata() or ()
        carrier = {key: value for key, value in metadata if isinstance(value, str)}
        epoch = time.time() - time.monotonic()
        attributes = {"rpc.system.name": "grpc", "rpc.method": method}
        parent = propagate.extract(carrier, Context())
        now = int((time.monotonic() + epoch) * 1e9)
        span = self._tracer.start_span(method, parent, SpanKind.SERVER, attributes, (), now)
        trace: Trace = UNTRACED
        if span.get_span_context().trace_flags.sampled:
            trace = SpanTrace(self, span, epoch)
        elif (caller := get_current_span(parent).get_span_context()).is_valid:
            trace = Unsampled(caller.trace_id)
        current.set(trace)
        return trace

    def turn(
        self,
        model: str,
        riders: Sequence[Rider],
        bounds: Ints,
        *,
        begin: float,
        computed: float,
        end: float,
    ) -> None:
        traced = [place for place, rider in enumerate(riders) if rider.trace.is_exported]
        items: dict[Rider, int] = {}  # a work with several chunks is there several times
        for place in traced:
            if count := int(bounds[place + 1] - bounds[place]):
                items[riders[place]] = items.get(riders[place], 0) + count
        rides = []
        for rider, count in items.items():
            trace, since, rider.waiting_since = rider.trace, rider.waiting_since, end
            assert isinstance(trace, SpanTrace)
            trace.turns += 1
            if trace.turns <= MOST_TURNS:
                rides.append(_Ride(trace, since, count))
        if rides:
            self.note(_Turn(model, int(bounds[-1]), begin, computed, end, rides).write)

    def start(
        self,
        name: str,
        parent: Context,
        begin: int,
        attributes: Mapping[str, AttributeValue] | None,
        links: Sequence[Link],
    ) -> Span:
        return self._tracer.start_span(name, parent, SpanKind.INTERNAL, attributes, links, begin)

    def note(self, write: Callable[[], object]) -> None:
        """Let the thread make spans of something; dropped where it has too much to do."""
        if self._notes.qsize() < MOST_NOTES:
            self._notes.put(write)

    def close(self) -> None:
        self._notes.put(None)
        self._thread.join(CLOSE_SECONDS)
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(CLOSE_SECONDS)
        if ending.is_alive():
            log.warning("the last traces could not be delivered")
            self._exporter.shutdown()  # gives up what it tries

    def _write(self) -> None:
        while (write := self._notes.get()) is not None:
            try:
                write()
            except Exception:  # a bug must not end the thread
                log.exception("spans could not be made")
