"""A histogram that takes a whole turn's values at once; prometheus-client's takes one."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Exemplar

SECONDS = (
    *(20e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3),
    *(20e-3, 50e-3, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
"""Upper bounds for durations."""


class Child:
    """The counts under one set of label values. One thread at a time may tell it anything."""

    __slots__ = ("_bounds", "bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: npt.NDArray[np.float64]) -> None:
        self.bounds = bounds
        self._bounds: list[float] = bounds.tolist()
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        # By bucket, the last one of each: its value, labels and time.
        self.exemplars: dict[int, tuple[float, Mapping[str, str], float]] = {}

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self._bounds, value)] += times
        self.total += value * times

    def observe_many(
        self, values: npt.NDArray[np.float64], times: npt.NDArray[np.int64] | None = None
    ) -> None:
        """Each value as often as it came; None: once."""
        counts = np.bincount(self.bounds.searchsorted(values), times)
        for place in counts.nonzero()[0].tolist():
            self.counts[place] += int(counts[place])
        self.total += float(values.sum() if times is None else values @ times)

    def add(self, counts: Sequence[int], total: float) -> None:
        """What another process counted by the same bounds."""
        for place, count in enumerate(counts):
            self.counts[place] += count
        self.total += total

    def remember(self, value: float, labels: Mapping[str, str], when: float) -> None:
        """Let a request stand for its bucket: by these labels it is found."""
        self.exemplars[bisect_left(self._bounds, value)] = value, labels, when

    def buckets(self) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
        """Upper bounds, cumulative counts, and exemplars where there are any."""
        names = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        for place, count in enumerate(itertools.accumulate(self.counts)):
            kept = self.exemplars.get(place)
            if kept is None:
                buckets.append((names[place], float(count)))
            else:
                value, labels, when = kept
                buckets.append((names[place], float(count), Exemplar(dict(labels), value, when)))
        return buckets


class Histogram(Collector):
    """A metric family of cumulative counts by upper bound."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        *,
        bounds: Sequence[float] = SECONDS,
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = tuple(labels)
        self._bounds = np.array(bounds, np.float64)
        self._children: dict[tuple[str, ...], Child] = {}
        registry.register(self)

    def labels(self, *values: str) -> Child:
        return self._children.setdefault(values, Child(self._bounds))

    def remove(self, *values: str) -> None:
        self._children.pop(values, None)

    def children(self) -> list[tuple[tuple[str, ...], Child]]:
        """All of them, with the values of their labels."""
        return list(self._children.items())

    def describe(self) -> list[HistogramMetricFamily]:
        return [HistogramMetricFamily(self._name, self._documentation, labels=self._labels)]

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, child in self.children():
            family.add_metric(values, child.buckets(), child.total)
        yield family
