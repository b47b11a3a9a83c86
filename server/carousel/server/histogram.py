"""A histogram that takes a whole turn's values at once; prometheus-client's takes one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

SECONDS = (
    *(20e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3),
    *(20e-3, 50e-3, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
"""Upper bounds for durations."""


class Child:
    """The counts under one set of label values."""

    __slots__ = ("_bounds", "bounds", "counts", "total")

    def __init__(self, bounds: npt.NDArray[np.float64]) -> None:
        self.bounds = bounds
        self._bounds = bounds.tolist()
        self.counts = np.zeros(len(bounds) + 1, np.int64)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self._bounds, value)] += times
        self.total += value * times

    def observe_many(self, values: npt.NDArray[np.float64], times: npt.NDArray[np.int64]) -> None:
        """Each value as often as it came."""
        if len(values) == 1:
            self.observe(values.item(), times.item())
            return
        places = self.bounds.searchsorted(values)
        self.counts += np.bincount(places, times, len(self.counts)).astype(np.int64)
        self.total += float(values @ times)


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

    def describe(self) -> list[HistogramMetricFamily]:
        return [HistogramMetricFamily(self._name, self._documentation, labels=self._labels)]

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, child in list(self._children.items()):
            counts = np.cumsum(child.counts).tolist()
            names = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
            buckets = [(name, float(count)) for name, count in zip(names, counts, strict=True)]
            family.add_metric(values, buckets, child.total)
        yield family
