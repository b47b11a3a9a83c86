"""Metrics of calls: of whatever process takes them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from carousel.server.counter import Counter as ThreadCounter
from carousel.server.histogram import Histogram

CUT_READER, CUT_UPLOAD, CUT_IDLE = "reader", "upload", "idle"
"""Why a stream is cut, in the metric."""

_METHOD = ("grpc_type", "grpc_service", "grpc_method")


class RpcMetrics:
    """The families; gRPC's under the names that public dashboards know."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.rpc_started = ThreadCounter(
            "grpc_server_started", "Calls begun.", _METHOD, registry=registry
        )
        self.rpc_handled = ThreadCounter(
            "grpc_server_handled", "Calls done.", (*_METHOD, "grpc_code"), registry=registry
        )
        self.rpc_received = ThreadCounter(
            "grpc_server_msg_received", "Messages received.", _METHOD, registry=registry
        )
        self.rpc_sent = ThreadCounter(
            "grpc_server_msg_sent", "Messages sent.", _METHOD, registry=registry
        )
        self.rpc_seconds = Histogram(
            "grpc_server_handling_seconds", "Time of calls.", _METHOD, registry=registry
        )
        self.streams_cut = Counter(
            "carousel_streams_cut",
            "Streams that stood still too long.",
            ("reason",),
            registry=registry,
        )
        for reason in (CUT_READER, CUT_UPLOAD, CUT_IDLE):
            self.streams_cut.labels(reason)
