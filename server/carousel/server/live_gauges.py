"""Gauges that are read from the engine when somebody looks, and cost a turn nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from carousel.server.loaded import LoadedVersion

_BY_VERSION = ("model", "version")


class LiveGauges(Collector):
    """What is there right now: sessions, their bytes, and what waits or runs."""

    def __init__(
        self, versions: Sequence[LoadedVersion], *, capacity: int, registry: CollectorRegistry
    ) -> None:
        self._versions = versions
        self._capacity = capacity
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        versions = tuple(self._versions)
        by_version = {(v.model, str(v.version)): v for v in versions}
        sessions = GaugeMetricFamily("carousel_sessions", "Live sessions.", labels=_BY_VERSION)
        capacity = GaugeMetricFamily(
            "carousel_session_capacity", "Sessions that fit in, all models.", labels=_BY_VERSION
        )
        for labels, version in by_version.items():
            sessions.add_metric(labels, version.sessions)
            capacity.add_metric(labels, self._capacity)
        yield sessions
        yield capacity
        waiting = Counter({v.model: 0 for v in versions})
        running, held = waiting.copy(), waiting.copy()
        for version in versions:
            waiting[version.model] += len(version.scheduler)
            running[version.model] += version.riding
            held[version.model] += version.arena.used * version.arena.row_bytes
        yield _by_model("carousel_requests_waiting", "Items that wait for a turn.", waiting)
        yield _by_model("carousel_requests_running", "Items in the present turn.", running)
        state = GaugeMetricFamily(
            "carousel_session_state_bytes", "Bytes of recurrent state.", labels=("model", "tier")
        )
        for model, count in held.items():
            state.add_metric((model, "device"), count)
        yield state


def _by_model(name: str, text: str, values: Counter[str]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=("model",))
    for model, value in values.items():
        family.add_metric((model,), value)
    return family
