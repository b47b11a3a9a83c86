"""The window: what the gates of one version did in the latest samples, and how far they drifted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from carousel.model import Baseline
from carousel.model.baseline import Spread, stability_index
from carousel.server.gates.activity import GATES, Activity, Numbers, is_saturated

Key = tuple[int, str]
"""A layer and the name of a gate."""

WINDOW_STEPS = 512  # the latest that count
DRIFT_STEPS = 128  # fewer say nothing about drift


class Window:
    """Sums over samples. `add` is for one thread; the others read.

    A sample is one vector: for each gate the sum of its values, how many are saturated, and how
    many there are; then the bins of everything that the baseline describes.
    """

    def __init__(self, model: str, baseline: Baseline | None) -> None:
        self.model = model
        self._gates: list[Key] = []
        self._spreads: Mapping[Key, Spread] = {
            (layer.layer, name): spread
            for layer in (baseline.layers if baseline is not None else ())
            for name, spread in layer.gates.items()
        }
        self._kept: tuple[tuple[int, Numbers], ...] = ()  # steps and vector, oldest first

    @property
    def steps(self) -> int:
        """How many there are."""
        return sum(steps for steps, _ in self._kept)

    def add(self, activity: Activity) -> None:
        """Take a sample, and let go of what is too old."""
        kept = (*self._kept, (len(activity.outputs), self._vector(activity)))
        steps, first = sum(steps for steps, _ in kept), 0
        while steps - kept[first][0] >= WINDOW_STEPS:
            steps -= kept[first][0]
            first += 1
        self._kept = kept[first:]

    def gates(self) -> Iterator[tuple[Key, Numbers]]:
        """Of each gate: the sum of its values, how many are saturated, and how many there are."""
        total = self._total()
        if total is not None:
            yield from zip(self._gates, total[: 3 * len(self._gates)].reshape(-1, 3), strict=True)

    def drifts(self) -> Iterator[tuple[Key, float]]:
        """The stability index of all that the baseline describes; none of too few steps."""
        total = self._total()
        if total is None or self.steps < DRIFT_STEPS:
            return
        place = 3 * len(self._gates)
        for key, spread in self._spreads.items():
            bins = total[place : place + len(spread.histogram)]
            place += len(bins)
            if bins.any():
                yield key, stability_index(spread.histogram, (bins / bins.sum()).tolist())

    def _total(self) -> Numbers | None:
        kept = self._kept
        if not kept:
            return None
        total: Numbers = np.sum([vector for _, vector in kept], axis=0)
        return total

    def _vector(self, activity: Activity) -> Numbers:
        parts, gates = [], []
        for name in (name for name in activity.values if name in GATES):
            values = activity.values[name]  # [N, L, H]
            sums, flat = values.double().sum((0, 2)), is_saturated(values).sum((0, 2))
            for layer in range(values.shape[1]):
                gates.append((layer, name))
                count = len(values) * values.shape[2]
                parts.append(np.array([sums[layer], flat[layer], count], np.float64))
        for (layer, name), spread in self._spreads.items():
            here = name in activity.values
            bins = spread.count(activity.values[name][:, layer]) if here else None
            parts.append(np.zeros(len(spread.histogram)) if bins is None else bins.numpy())
        self._gates = gates
        return np.concatenate([np.zeros(0), *parts])
