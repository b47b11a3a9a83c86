"""Metrics of gates; gauges are read from the windows when somebody looks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from carousel.model import ModelConfig
from carousel.server.gates.activity import KEEPS, Numbers
from carousel.server.gates.window import Window
from carousel.server.histogram import Histogram

NORMS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
HORIZONS = (*(1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0), 1e3, 1e4, 1e5)
NATS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0)

_BY_LAYER = ("model", "layer")
_BY_GATE = ("model", "layer", "gate")


class GateMetrics(Collector):
    """The families. Where several versions of a model serve, their samples count together, and the
    gate that drifted most of them is shown.

    `windows` has one for each version that was sampled, by its ordinal.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.windows: dict[int, Window] = {}
        self.state_norm = Histogram(
            "carousel_state_norm",
            "L2 norm of a layer's state after a sampled step.",
            _BY_LAYER,
            bounds=NORMS,
            registry=registry,
        )
        self.memory_horizon = Histogram(
            "carousel_memory_horizon_steps",
            "How many steps a unit remembers, by its gate in a sampled step.",
            _BY_LAYER,
            bounds=HORIZONS,
            registry=registry,
        )
        self.surprise = Histogram(
            "carousel_surprise_nats",
            "How unexpected the next token was to the model, in sampled steps.",
            ("model",),
            bounds=NATS,
            registry=registry,
        )
        registry.register(self)

    def expect(self, model: str, config: ModelConfig, *, generative: bool) -> None:
        """Begin, at zero, what will be counted of a version."""
        for layer in map(str, range(config.layers)):
            self.state_norm.labels(model, layer)
            if config.cell in KEEPS:
                self.memory_horizon.labels(model, layer)
        if generative:
            self.surprise.labels(model)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        mean = GaugeMetricFamily(
            "carousel_gate_activation_mean",
            "Mean of a gate in the latest samples.",
            labels=_BY_GATE,
        )
        saturation = GaugeMetricFamily(
            "carousel_gate_saturation_ratio",
            "Share of a gate's units that hardly move, in the latest samples.",
            labels=_BY_GATE,
        )
        drift = GaugeMetricFamily(
            "carousel_gate_drift_psi",
            "Population stability index of the latest samples against the version's baseline.",
            labels=_BY_GATE,
        )
        windows = list(self.windows.values())
        for labels, (total, flat, count) in _sums(windows).items():
            mean.add_metric(labels, total / count)
            saturation.add_metric(labels, flat / count)
        for labels, index in _drifts(windows).items():
            drift.add_metric(labels, index)
        yield from (mean, saturation, drift)


def _sums(windows: list[Window]) -> dict[tuple[str, str, str], Numbers]:
    sums: dict[tuple[str, str, str], Numbers] = defaultdict(lambda: np.zeros(3))
    for window in windows:
        for (layer, gate), numbers in window.gates():
            sums[window.model, str(layer), gate] += numbers
    return sums


def _drifts(windows: list[Window]) -> dict[tuple[str, str, str], float]:
    drifts: dict[tuple[str, str, str], float] = defaultdict(float)
    for window in windows:
        for (layer, gate), index in window.drifts():
            labels = (window.model, str(layer), gate)
            drifts[labels] = max(drifts[labels], index)
    return drifts
