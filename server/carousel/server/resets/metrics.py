"""Metrics of who is shut out."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class ResetMetrics:
    """Networks that were shut out, how many are, and the connections that were cut for it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.shut_out = Counter(
            "carousel_networks_shut_out",
            "Networks that were shut out for taking back too many calls.",
            registry=registry,
        )
        self.out = Gauge(
            "carousel_networks_out", "Networks that are shut out now.", registry=registry
        )
        self.cut = Counter(
            "carousel_connections_cut",
            "Connections that were cut because their network was shut out.",
            registry=registry,
        )
