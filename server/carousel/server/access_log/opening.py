"""The access log that the settings ask for."""

from __future__ import annotations

from carousel.server.access_log.metrics import AccessLogMetrics
from carousel.server.access_log.recorder import Recorder
from carousel.server.access_log.rotating_file import RotatingFile
from carousel.server.access_log.writer import Writer
from carousel.server.settings import Settings


class AccessLogError(Exception):
    """The access log can't be written; the message says why."""


def open_recorder(settings: Settings, metrics: AccessLogMetrics) -> Recorder | None:
    """None where nothing is to be recorded. Raises AccessLogError."""
    path = settings.access_log_file
    if path is None:
        return None
    limit, keep = settings.access_log_bytes, settings.access_log_keep
    try:
        return Recorder(Writer(RotatingFile(path, limit=limit, keep=keep), metrics))
    except OSError as error:
        raise AccessLogError(f"access_log: {path}: {error.strerror}") from error
