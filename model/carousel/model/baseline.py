"""A baseline: how a model's gates and states behave on held-out data, beside it on disk.

Live traffic can be held against it: data that drift away from what was learned move the gates.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carousel.model.checks import build, finite, integer, mapping
from carousel.model.config import MAX_LAYERS, ModelConfig
from carousel.model.errors import ConfigError
from carousel.model.network import Network

BASELINE = "baseline.json"
# Values of a gate, and of what may be negative.
RANGES = {"candidate": (-1.0, 1.0), "hidden": (-1.0, 1.0), "cell": (-4.0, 4.0)}
BINS = 10
MAX_BINS = 1000
MAX_STEPS = 2**31 - 1
LEAST_SHARE = 1e-4  # of a bin, so that an empty one has a logarithm


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Values of one gate: their mean, and the shares of equal bins from low to high.

    What lies beyond is counted at the ends.
    """

    mean: float
    low: float
    high: float
    histogram: tuple[float, ...]

    def __post_init__(self) -> None:
        _numbers("a gate", self.mean, self.low, self.high, *_tuple(self.histogram))
        fine = 1 <= len(self.histogram) <= MAX_BINS and min(self.histogram) >= 0
        if not fine or not math.isclose(sum(self.histogram), 1, abs_tol=1e-3):
            raise ConfigError(
                f"histogram must be 1 to {MAX_BINS} shares of 1, got {self.histogram!r:.80}"
            )
        if self.low >= self.high:
            raise ConfigError(f"low must be below high, got {self.low} and {self.high}")

    def count(self, values: Tensor) -> Tensor:
        """How many of the values are in each bin."""
        return count(values, self.low, self.high, len(self.histogram))


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Mean and standard deviation."""

    mean: float
    std: float

    def __post_init__(self) -> None:
        _numbers("state_norm", self.mean, self.std)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBaseline:
    """One layer: its gates by name, and the norm of its state (the cell state of an LSTM)."""

    layer: int
    gates: Mapping[str, Spread]
    state_norm: Moments


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What was seen over so many steps, a layer after the other."""

    steps: int
    layers: tuple[LayerBaseline, ...]

    def __post_init__(self) -> None:
        integer("steps", self.steps, 1, MAX_STEPS)
        if [one.layer for one in self.layers] != list(range(len(self.layers))):
            raise ConfigError("layers must be numbered from 0")

    def to_json(self) -> str:
        """What `from_json` makes an equal baseline of."""
        return json.dumps(self, default=_plain, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, config: ModelConfig) -> "Baseline":
        """The baseline of a model of this config; raises ConfigError."""
        try:
            values = mapping("baseline", json.loads(text))
            layers = tuple(map(_layer, _tuple(values.get("layers"))))
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{BASELINE} is not valid: {error}") from None
        made = build("baseline", cls, {**values, "layers": layers})
        if len(layers) != config.layers:
            raise ConfigError(
                f"{BASELINE} must have {config.layers} layers as its model, got {len(layers)}"
            )
        return made


def load_baseline(folder: Path | str, config: ModelConfig) -> Baseline | None:
    """The baseline in a model's folder, None where there is none; raises ConfigError."""
    path = Path(folder) / BASELINE
    if not path.exists():
        return None
    try:
        return Baseline.from_json(path.read_text(encoding="utf-8"), config)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{BASELINE} cannot be read: {error}") from None


@torch.no_grad()
def measure(network: Network, steps: Tensor) -> Baseline:
    """The baseline of a network over one sequence: [T, D] features or [T] tokens."""
    trace = network.trace(steps, network.initial_rows(1))
    state = trace.gates["cell" if network.config.cell == "lstm" else "hidden"]  # [T, L, H]
    return Baseline(
        steps=len(steps),
        layers=tuple(
            LayerBaseline(
                layer=layer,
                gates={name: _spread(name, v[:, layer]) for name, v in trace.gates.items()},
                state_norm=_moments(state[:, layer].norm(dim=1)),
            )
            for layer in range(network.config.layers)
        ),
    )


def _spread(name: str, values: Tensor) -> Spread:
    low, high = RANGES.get(name, (0.0, 1.0))
    shares = count(values, low, high, BINS) / values.numel()
    return Spread(mean=values.mean().item(), low=low, high=high, histogram=tuple(shares.tolist()))


def count(values: Tensor, low: float, high: float, bins: int) -> Tensor:
    """How many values are in each of so many equal bins [bins]; what lies beyond is at the ends."""
    places = ((values - low) / (high - low) * bins).long().clamp(0, bins - 1)
    return torch.bincount(places.flatten(), minlength=bins)


def stability_index(expected: Sequence[float], found: Sequence[float]) -> float:
    """The population stability index of shares found against those expected.

    The sum of (found - expected) ln(found / expected) over the bins: 0 where they are equal, by
    custom below 0.1 stable and above 0.25 drifted. An empty bin counts as a share of 1e-4.
    """
    e = torch.tensor(expected, dtype=torch.float64).clamp_min(LEAST_SHARE)
    f = torch.tensor(found, dtype=torch.float64).clamp_min(LEAST_SHARE)
    return float(((f - e) * torch.log(f / e)).sum())


def _moments(values: Tensor) -> Moments:
    return Moments(mean=values.mean().item(), std=values.std(correction=0).item())


def _layer(given: object) -> LayerBaseline:
    values = mapping("a layer", given)
    integer("layer", values.get("layer"), 0, MAX_LAYERS - 1)
    gates = {
        name: build("a gate", Spread, mapping("a gate", gate))
        for name, gate in mapping("gates", values.get("gates")).items()
    }
    norm = build("state_norm", Moments, mapping("state_norm", values.get("state_norm")))
    return build("a layer", LayerBaseline, {**values, "gates": gates, "state_norm": norm})


def _numbers(name: str, *values: object) -> None:
    for value in values:
        if not finite(value):
            raise ConfigError(f"{name} must have finite numbers, got {value!r:.80}")


def _tuple(given: object) -> tuple[Any, ...]:
    if not isinstance(given, tuple):
        raise ConfigError(f"a list must be given, got {given!r:.80}")
    return given


def _plain(part: Any) -> dict[str, Any]:
    return {name: getattr(part, name) for name in part.__slots__}
