"""Gauges that are read from the engine when somebody looks, and cost a turn nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from carousel.server.loaded import LoadedVersion
from carousel.server.table import FREE, NO_ROW, SessionTable

_BY_VERSION = ("model", "version")


class LiveGauges(Collector):
    """What is there right now: sessions, their bytes, and what waits or runs."""

    def __init__(
        self,
        versions: Sequence[LoadedVersion],
        table: SessionTable,
        *,
        capacity: int,
        turn_age: Callable[[], float],
        registry: CollectorRegistry,
    ) -> None:
        """`turn_age` gives the seconds since the engine's present turn began."""
        self._versions = versions
        self._table = table
        self._capacity = capacity
        self._turn_age = turn_age
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily(
            "carousel_turn_age_seconds",
            "Since the engine's present round of turns began; 0 while it rests.",
            value=self._turn_age(),
        )
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
        by_ordinal = {v.ordinal: v.model for v in versions}
        waiting = Counter({v.model: 0 for v in versions})
        running, held = waiting.copy(), waiting.copy()
        for version in versions:
            waiting[version.model] += len(version.scheduler) + len(version.held)
            running[version.model] += version.riding
            held[version.model] += version.arena.used * version.arena.row_bytes
        yield _by_model("carousel_requests_waiting", "Items that wait for a turn.", waiting)
        yield _by_model("carousel_requests_running", "Items in the present turn.", running)
        state = GaugeMetricFamily(
            "carousel_session_state_bytes", "Bytes of recurrent state.", labels=("model", "tier")
        )
        hosted = Counter[str]()
        for slot, record in list(self._table.parked.items()):
            if record is not None:
                hosted[str(by_ordinal.get(int(self._table.version[slot])))] += len(record)
        stored = self._stored(versions)
        for model, count in held.items():
            state.add_metric((model, "device"), count)
            state.add_metric((model, "host"), hosted[model])
            state.add_metric((model, "store"), stored[model])
        yield state
        yield self._parked(versions)

    def _parked(self, versions: Sequence[LoadedVersion]) -> GaugeMetricFamily:
        """Sessions whose state is not on the device, by version."""
        family = GaugeMetricFamily(
            "carousel_sessions_parked", "Live sessions off the device.", labels=_BY_VERSION
        )
        table = self._table
        ordinals, rows, states = _together(table.version, table.row, table.state)
        parked = ordinals[(rows == NO_ROW) & (states != FREE)]
        for version in versions:
            count = int((parked == version.ordinal).sum())
            family.add_metric((version.model, str(version.version)), count)
        return family

    def _stored(self, versions: Sequence[LoadedVersion]) -> Counter[str]:
        """Bytes of the states of live sessions that are in the store too, by model."""
        table = self._table
        columns = table.version, table.stored_handle, table.state, table.rewind_depth
        ordinals, handles, states, depths = _together(*columns)
        rows = depths.astype(np.int64) + 1
        for slot, marks in list(table.marks.items()):
            rows[slot : slot + 1] += len(marks)
        rows[(handles == 0) | (states == FREE)] = 0
        stored = Counter[str]()
        for version in versions:
            count = int(rows[ordinals == version.ordinal].sum())
            stored[version.model] += count * version.arena.row_bytes
        return stored


def _together(*columns: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Columns of the table, which may be growing just now, as far as all of them go."""
    length = min(map(len, columns))
    return [column[:length] for column in columns]


def _by_model(name: str, text: str, values: Counter[str]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=("model",))
    for model, value in values.items():
        family.add_metric((model,), value)
    return family
