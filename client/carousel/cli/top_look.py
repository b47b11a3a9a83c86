"""A look: all that a server says at one moment, asked in four calls."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from carousel.cli.metric_views import quantile

if TYPE_CHECKING:
    from carousel.client import Client, Job, MetricSample, ServerInfo, SessionInfo, Statistics

SESSIONS, JOBS = 500, 20
METRICS = "rates and gates"  # of which the metrics tell

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Look:
    """`sessions` are the first by their ids, `jobs` the newest. `denied` says of each part that
    the caller may not see, which is empty then, why."""

    info: ServerInfo
    statistics: Statistics
    sessions: tuple[SessionInfo, ...]
    jobs: tuple[Job, ...]
    denied: Mapping[str, str] = field(default_factory=dict)

    def samples(self, name: str, **labels: str) -> Iterator[MetricSample]:
        """Those of this name that have these labels."""
        wanted = labels.items()
        for family in self.statistics.families:
            if name.startswith(family.name):
                yield from (
                    s for s in family.samples if s.name == name and wanted <= s.labels.items()
                )


def look(client: Client, *, timeout: float | None = None) -> Look:
    """Raises ServerUnreachable, Unauthenticated and whatever else the server says."""
    from carousel.client import Statistics
    from carousel.errors import PermissionDenied

    denied: dict[str, str] = {}

    def may(part: str, ask: Callable[[], T], nothing: T) -> T:
        try:
            return ask()
        except PermissionDenied as error:
            denied[part] = error.message
            return nothing

    sessions, jobs = client.list_sessions(timeout=timeout), client.jobs.list(timeout=timeout)
    return Look(
        client.server_info(timeout=timeout),
        may(METRICS, lambda: client.statistics(timeout=timeout), Statistics(datetime.now(UTC), ())),
        may("sessions", lambda: tuple(itertools.islice(sessions, SESSIONS)), ()),
        may("jobs", lambda: tuple(itertools.islice(jobs, JOBS)), ()),
        denied,
    )


class Growth:
    """What moved between two looks at the same server. None stands for what nothing is known of."""

    def __init__(self, before: Look, after: Look) -> None:
        self._before, self._after = before, after
        elapsed = after.statistics.create_time - before.statistics.create_time
        self.seconds = max(elapsed.total_seconds(), 1e-9)

    def rate(self, name: str, **labels: str) -> float:
        """Of a counter, a second."""
        return self._sum(name, labels) / self.seconds

    def mean(self, name: str, **labels: str) -> float | None:
        """Of a histogram."""
        count = self._sum(f"{name}_count", labels)
        return self._sum(f"{name}_sum", labels) / count if count else None

    def quantile(self, share: float, name: str, **labels: str) -> float | None:
        """Of a histogram."""
        grown: dict[float, float] = {}
        for one, sign in ((self._before, -1.0), (self._after, 1.0)):
            for sample in one.samples(f"{name}_bucket", **labels):
                bound = float(sample.labels["le"])
                grown[bound] = grown.get(bound, 0.0) + sign * sample.value
        buckets = sorted(grown.items())
        return quantile(buckets, share) if buckets and buckets[-1][1] > 0 else None

    def _sum(self, name: str, labels: dict[str, str]) -> float:
        after, before = (
            sum(sample.value for sample in one.samples(name, **labels))
            for one in (self._after, self._before)
        )
        return max(after - before, 0.0)
