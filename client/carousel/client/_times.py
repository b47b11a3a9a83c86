"""Times and durations of the contract as Python's own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf import duration_pb2, timestamp_pb2

Seconds = float | timedelta


def to_datetime(stamp: timestamp_pb2.Timestamp) -> datetime:
    """In UTC."""
    return datetime.fromtimestamp(stamp.seconds + stamp.nanos / 1e9, UTC)


def to_duration(given: Seconds) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    seconds = given.total_seconds() if isinstance(given, timedelta) else float(given)
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def to_timedelta(duration: duration_pb2.Duration) -> timedelta:
    return timedelta(seconds=duration.seconds, microseconds=duration.nanos / 1e3)
