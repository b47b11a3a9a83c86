"""Metrics of the access log."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class AccessLogMetrics:
    """What was written, and what could not be: `queue` when too much waited, `file` when the file
    took nothing more."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.written = Counter(
            "carousel_access_log_written", "Lines of the access log.", registry=registry
        )
        lost = Counter(
            "carousel_access_log_lost",
            "Lines of the access log that could not be written.",
            ("reason",),
            registry=registry,
        )
        self.lost_in_queue = lost.labels("queue")
        self.lost_at_file = lost.labels("file")
