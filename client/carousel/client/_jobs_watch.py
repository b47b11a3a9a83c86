"""A watch: which event was seen last, and whether to ask for more; alike for both clients."""

from __future__ import annotations

import time

from carousel.client._jobs_progress import JobEvent, JobState, event
from carousel.client._jobs_values import Job, JobFailed
from carousel.client._names import job_name
from carousel.client._retry import RESENT, delay
from carousel.errors import CarouselError, DeadlineExceeded
from carousel.v1 import training_service_pb2 as pb

PATH = "carousel.v1.TrainingService/WatchJob"

PATIENCE = 120.0
"""Seconds for which a server may be away: it may be restarting, and the job lives on."""

_LONGEST = 3600.0
"""Seconds of one stream; no deadline at all would outlive a silent network."""


class Watch:
    """Follows one job over as many streams as it takes."""

    def __init__(self, name: str, *, after: int, timeout: float | None) -> None:
        self.name = job_name(name)
        self._last = after
        self._end = None if timeout is None else time.monotonic() + timeout
        self._timeout = timeout
        self._failures = 0
        self._away_since: float | None = None
        self._state: JobState | None = None

    def request(self) -> pb.WatchJobRequest:
        return pb.WatchJobRequest(name=self.name, after_sequence=self._last)

    @property
    def seconds(self) -> float:
        """The deadline of the next stream."""
        return _LONGEST if self._end is None else max(0.0, self._end - time.monotonic())

    def take(self, response: pb.WatchJobResponse) -> JobEvent | None:
        """None for a heartbeat, and for what was seen before."""
        self._failures, self._away_since = 0, None
        if not response.HasField("event") or response.event.sequence <= self._last:
            return None
        self._last = response.event.sequence
        found = event(response.event)
        if found is not None and isinstance(found.what, JobState):
            self._state = found.what
        return found

    def saw_end(self) -> bool:
        return self._state is not None and self._state.ended

    def wait_after(self, error: CarouselError) -> float:
        """Seconds to wait before the next stream; raises when there shall be none."""
        now = time.monotonic()
        if isinstance(error, DeadlineExceeded):
            if self._end is not None and now >= self._end - 0.001:
                raise DeadlineExceeded(
                    f"{self.name} has not ended within {self._timeout:g} s"
                ) from error
            return 0.0
        if self._away_since is None:
            self._away_since = now
        if error.code not in RESENT or now - self._away_since > PATIENCE:
            raise error
        self._failures += 1
        return delay(self._failures)


def check(job: Job) -> Job:
    """Raises JobFailed unless it succeeded."""
    if job.state is not JobState.SUCCEEDED:
        raise JobFailed(job)
    return job
