"""A baseline says what the reference's gates did, survives JSON, and is checked when read."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carousel.model import (
    Baseline,
    ConfigError,
    Features,
    ModelConfig,
    Network,
    load_baseline,
)
from carousel.model.baseline import measure

CONFIG = ModelConfig(cell="lstm", layers=2, hidden_size=6, input=Features(3))


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(1)
    return Network(CONFIG).eval()


@pytest.fixture(scope="module")
def steps() -> torch.Tensor:
    return torch.randn(50, 3, generator=torch.Generator().manual_seed(2))


def test_a_baseline_is_what_the_gates_did(network: Network, steps: torch.Tensor) -> None:
    found = measure(network, steps)
    assert found.steps == 50
    with torch.no_grad():
        trace = network.trace(steps, network.initial_rows(1))
    for layer, seen in enumerate(found.layers):
        forget = trace.gates["forget"][:, layer].numpy()
        bins, _ = np.histogram(forget, bins=10, range=(0, 1))
        assert seen.gates["forget"].mean == pytest.approx(forget.mean(), rel=1e-5)
        assert seen.gates["forget"].histogram == pytest.approx(bins / forget.size, abs=1e-6)
        norms = np.linalg.norm(trace.gates["cell"][:, layer].numpy(), axis=1)
        assert seen.state_norm.mean == pytest.approx(norms.mean(), rel=1e-5)
        assert seen.state_norm.std == pytest.approx(norms.std(), rel=1e-4)


def test_a_baseline_survives_its_file(
    network: Network, steps: torch.Tensor, tmp_path: Path
) -> None:
    assert load_baseline(tmp_path, CONFIG) is None
    made = measure(network, steps)
    (tmp_path / "baseline.json").write_text(made.to_json())
    assert load_baseline(tmp_path, CONFIG) == made


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.pop("steps"), "steps must be given"),
        (lambda b: b.update(colour="red"), "baseline has no 'colour'"),
        (lambda b: b["layers"].pop(), "must have 2 layers as its model, got 1"),
        (lambda b: b["layers"].reverse(), "layers must be numbered from 0"),
        (lambda b: b.update(layers="two"), "a list must be given, got 'two'"),
        (lambda b: b["layers"][0].update(gates=[]), "gates must be an object"),
        (lambda b: b["layers"][1]["state_norm"].update(std=None), "state_norm must have finite"),
        (lambda b: b["layers"][0]["gates"]["forget"].update(mean="high"), "a gate must have fin"),
        (
            lambda b: b["layers"][0]["gates"]["forget"].update(histogram=[0.5]),
            "1000 shares of 1, got",
        ),
        (lambda b: b["layers"][0]["gates"]["forget"].update(low=1.0), "low must be below high"),
    ],
)
def test_a_baseline_of_another_shape_is_refused(
    network: Network, steps: torch.Tensor, change: Change, message: str
) -> None:
    good = json.loads(measure(network, steps).to_json())
    Baseline.from_json(json.dumps(good), CONFIG)
    bad = copy.deepcopy(good)
    change(bad)
    with pytest.raises(ConfigError, match=message):
        Baseline.from_json(json.dumps(bad), CONFIG)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000])
def test_what_is_no_json_object_is_no_baseline(text: str) -> None:
    with pytest.raises(ConfigError, match=r"baseline\.json|baseline must be an object"):
        Baseline.from_json(text, CONFIG)
