"""Metrics of the store of sessions."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from carousel.server.histogram import Histogram


class StoreMetrics:
    """The families that belong to no model."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.write_seconds = Histogram(
            "carousel_store_write_seconds",
            "Time to write a group of sessions, attempts that failed included.",
            (),
            registry=registry,
        ).labels()
        self.copy_seconds = Histogram(
            "carousel_store_copy_seconds",
            "Time between two turns in which sessions were copied for the store.",
            (),
            registry=registry,
        ).labels()
        self.failures = Counter(
            "carousel_store_failures", "Attempts to write that failed.", registry=registry
        )
        self.fenced = Counter(
            "carousel_store_fenced_writes",
            "Writes refused because another server has the session.",
            registry=registry,
        )
