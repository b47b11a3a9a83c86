"""Metrics of audit logs."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from carousel.server.histogram import Histogram


class AuditMetrics:
    """The families that belong to no model."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.sessions = Gauge(
            "carousel_audit_sessions", "Live sessions with an audit log.", registry=registry
        )
        self.bytes = Counter(
            "carousel_audit_bytes", "Bytes written to audit logs.", registry=registry
        )
        self.failures = Counter(
            "carousel_audit_failures", "Audit logs that could not be written.", registry=registry
        )
        self.mismatches = Counter(
            "carousel_audit_mismatches",
            "Steps that came out otherwise when they were replayed.",
            registry=registry,
        )
        self.write_seconds = Histogram(
            "carousel_audit_write_seconds",
            "Time to write what came together.",
            (),
            registry=registry,
        ).labels()
