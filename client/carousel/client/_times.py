"""Times and durations of the contract as Python's own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf import duration_pb2, timestamp_pb2

from carousel.errors import InvalidField

MAX_SECONDS = 315_576_000_000  # of google.protobuf.Duration
Seconds = float | timedelta


def to_datetime(stamp: timestamp_pb2.Timestamp) -> datetime:
    """In UTC."""
    return datetime.fromtimestamp(stamp.seconds + stamp.nanos / 1e9, UTC)


def to_duration(given: Seconds) -> duration_pb2.Duration:
    """Raises InvalidField for what no duration of the contract can be."""
    duration = duration_pb2.Duration()
    seconds = given.total_seconds() if isinstance(given, timedelta) else float(given)
    if not -MAX_SECONDS <= seconds <= MAX_SECONDS:
        raise InvalidField(f"a duration must be finite and at most 10,000 years, got {seconds} s")
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def to_timedelta(duration: duration_pb2.Duration) -> timedelta:
    return timedelta(seconds=duration.seconds, microseconds=duration.nanos / 1e3)
