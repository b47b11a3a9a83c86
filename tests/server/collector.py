"""A collector of traces: the other end of OTLP, on a free port."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    format_span_id,
    format_trace_id,
    use_span,
)

from tests.processes import PATIENCE

_numbers = itertools.count(0xCA205E1)
FLAGS = {True: TraceFlags(TraceFlags.SAMPLED), False: TraceFlags(TraceFlags.DEFAULT)}


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans that it is sent; while `answers` is not set it gives no answer."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[Resource] = []
        self.asked = threading.Event()
        self.answers = threading.Event()
        self.answers.set()
        self._news = threading.Condition()
        self._server = grpc.server(ThreadPoolExecutor(4))
        add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        add(self, self._server)
        self.endpoint = f"http://localhost:{self._server.add_insecure_port('localhost:0')}"
        self._server.start()

    def Export(self, request: pb.ExportTraceServiceRequest, context: Any) -> Any:
        self.asked.set()
        self.answers.wait(PATIENCE)
        with self._news:
            for part in request.resource_spans:
                self.resources.append(part.resource)
                for scope in part.scope_spans:
                    self.spans += scope.spans
            self._news.notify_all()
        return pb.ExportTraceServiceResponse()

    def trace(self, trace_id: int, *, spans: int) -> list[Span]:
        """A trace, once it has so many spans."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.of(trace_id)) >= spans, timeout=PATIENCE), (
                self.of(trace_id)
            )
            return self.of(trace_id)

    def of(self, trace_id: int) -> list[Span]:
        return [span for span in self.spans if int.from_bytes(span.trace_id) == trace_id]

    def stop(self) -> None:
        self.answers.set()
        self._server.stop(None).wait()


class Caller:
    """A span of the caller's, which is all that he has of OpenTelemetry."""

    def __init__(self, *, sampled: bool = True) -> None:
        self.trace_id = self.span_id = next(_numbers)
        self._context = SpanContext(self.trace_id, self.span_id, False, FLAGS[sampled])

    @property
    def header(self) -> tuple[str, str]:
        """What propagates it, as the specification of W3C has it."""
        ids = f"{format_trace_id(self.trace_id)}-{format_span_id(self.span_id)}"
        return "traceparent", f"00-{ids}-{self._context.trace_flags:02x}"

    @contextmanager
    def calling(self) -> Iterator[None]:
        """The span is the current one."""
        with use_span(NonRecordingSpan(self._context)):
            yield
