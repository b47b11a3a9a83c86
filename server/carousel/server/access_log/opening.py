"""The access log that the settings ask for."""

from __future__ import annotations

from carousel.server.access_log.metrics import AccessLogMetrics
from carousel.server.access_log.rotating_file import RotatingFile
from carousel.server.access_log.writer import Writer
from carousel.server.settings import Settings


def open_access_log(settings: Settings, metrics: AccessLogMetrics) -> Writer | None:
    """None where there is to be none. Raises OSError where the file can't be opened."""
    path = settings.access_log_file
    if path is None:
        return None
    limit, keep = settings.access_log_bytes, settings.access_log_keep
    return Writer(RotatingFile(path, limit=limit, keep=keep), metrics)
