"""Sampled gates: what metrics say of them is what float64 arithmetic says, and drift is drift."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import numpy.typing as npt
import pytest
import torch

from carousel import tensors
from carousel.model import Features, ModelConfig, Network, Softmax, Tokens, save
from carousel.model.baseline import measure, stability_index
from carousel.model.config import Cell
from carousel.v1 import model_service_pb2
from tests.conftest import RunningServer
from tests.processes import until
from tests.server.contract import Wire

Numbers = npt.NDArray[np.float64]

SESSIONS, HIDDEN, LAYERS, VOCABULARY = 24, 12, 2, 11
PREFIX = 7
CELLS: tuple[Cell, ...] = ("lstm", "gru", "rnn_tanh")
FIRST_TURN_ONLY = 1000.0  # seconds from a sample to the next
GATES = {"lstm": ("input", "forget", "output"), "gru": ("reset", "update"), "rnn_tanh": ()}


@pytest.fixture(scope="module")
def networks() -> dict[str, Network]:
    """Token models of every cell, with large weights: many gates are saturated."""
    torch.manual_seed(4)
    made: dict[str, Network] = {}
    for cell in CELLS:
        config = ModelConfig(
            cell=cell,
            layers=LAYERS,
            hidden_size=HIDDEN,
            input=Tokens(VOCABULARY, 5),
            head=Softmax(VOCABULARY),
        )
        network = Network(config)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.mul_(4.0 if "weight" in name else 1.0)
        made[cell] = network.eval()
    return made


@pytest.fixture(scope="module")
def store(networks: dict[str, Network], tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("models")
    for cell, network in networks.items():
        save(store / cell.replace("_", "-") / "1", network)
    return store


def sigmoid(x: Numbers) -> Numbers:
    return 1 / (1 + np.exp(-x))


@dataclass
class Truth:
    """Steps of B sessions in float64, by numpy alone: the last step's gates, and all logits."""

    network: Network

    def __post_init__(self) -> None:
        self.cell = self.network.config.cell
        self.weights = {k: v.double().numpy() for k, v in self.network.state_dict().items()}

    def __call__(self, tokens: npt.NDArray[np.int64]) -> tuple[list[dict[str, Numbers]], Numbers]:
        """Tokens [B, T] from the zero state: by layer and name [T, B, H], and logits [T, B, V]."""
        x = np.moveaxis(self.weights["embedding.weight"][tokens], 1, 0)  # [T, B, D]
        seen = []
        for layer in range(LAYERS):
            w, u, b, d = (
                self.weights[f"rnn.{kind}_l{layer}"]
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            state = {"h": np.zeros((len(tokens), HIDDEN)), "c": np.zeros((len(tokens), HIDDEN))}
            steps = []
            for one in x:
                steps.append(self.step(one @ w.T + b, state["h"] @ u.T + d, state))
                state = {"h": steps[-1]["hidden"], "c": steps[-1].get("cell", state["c"])}
            seen.append({name: np.stack([s[name] for s in steps]) for name in steps[0]})
            x = seen[-1]["hidden"]
        return seen, x @ self.weights["head.weight"].T + self.weights["head.bias"]

    def step(self, x: Numbers, h: Numbers, state: dict[str, Numbers]) -> dict[str, Numbers]:
        if self.cell == "lstm":
            i, f, g, o = np.split(x + h, 4, axis=1)
            i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
            c = f * state["c"] + i * g
            return {"input": i, "forget": f, "output": o, "cell": c, "hidden": o * np.tanh(c)}
        if self.cell == "gru":
            (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(x, 3, axis=1), np.split(h, 3, axis=1)
            r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
            hidden = (1 - z) * np.tanh(x_n + r * h_n) + z * state["h"]
            return {"reset": r, "update": z, "hidden": hidden}
        return {"hidden": np.tanh(x + h)}


class Sampled:
    """The metrics of one server that is stopped, after a single turn was sampled."""

    def __init__(self, server: RunningServer, cell: str, steps: int) -> None:
        self.model = cell.replace("_", "-")
        self.tokens = np.random.default_rng(9).integers(0, VOCABULARY, (SESSIONS, PREFIX + steps))
        with grpc.insecure_channel(server.target) as channel:
            wire = Wire(channel)
            handles = [
                wire.create(
                    f"models/{self.model}", prefix_inputs=tensors.encode(sequence[:PREFIX])
                ).handle
                for sequence in self.tokens
            ]
            for begin in (PREFIX, PREFIX + steps):  # the second turn is not sampled
                fed = np.tile(self.tokens[:, PREFIX:], 2)[:, begin - PREFIX :][:, :steps]
                lengths = [steps] * SESSIONS if steps > 1 else []
                wire.outputs(handles, [begin] * SESSIONS, fed.reshape(-1), lengths)
        server.stop()  # the sample is finished
        self.registry = server.server.metrics.registry
        self.value = self.registry.get_sample_value

    def gauge(self, name: str, layer: int, gate: str) -> float | None:
        labels = {"model": self.model, "layer": str(layer), "gate": gate}
        return self.value(f"carousel_{name}", labels)

    def histogram(self, name: str, layer: int | None = None) -> tuple[float | None, float | None]:
        """How many values, and their sum."""
        labels = {"model": self.model} | ({} if layer is None else {"layer": str(layer)})
        count, total = (self.value(f"carousel_{name}_{part}", labels) for part in ("count", "sum"))
        return count, total

    def buckets(self, name: str, layer: int) -> list[tuple[float, float]]:
        """Bounds, and how many values are not above."""
        return [
            (float(sample.labels["le"]), sample.value)
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == f"carousel_{name}_bucket" and sample.labels["layer"] == str(layer)
        ]


@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize("cell", CELLS)
def test_sampled_gates_are_those_of_float64(
    serve: Callable[..., RunningServer],
    store: Path,
    networks: dict[str, Network],
    cell: str,
    steps: int,
) -> None:
    model = cell.replace("_", "-")
    server = serve(store=store, shipped=False, load=[model], gate_sample_seconds=FIRST_TURN_ONLY)
    sampled, looked = Sampled(server, cell, steps), min(steps, 4)
    seen, logits = Truth(networks[cell])(sampled.tokens)
    for layer, values in enumerate(seen):
        for gate in GATES[cell]:
            found = values[gate][PREFIX : PREFIX + looked]
            assert sampled.gauge("gate_activation_mean", layer, gate) == pytest.approx(
                found.mean(), rel=1e-5
            )
            flat = ((found < 0.05) | (found > 0.95)).mean()
            assert sampled.gauge("gate_saturation_ratio", layer, gate) == pytest.approx(flat)
            assert 0 < flat < 1
        assert sampled.gauge("gate_activation_mean", layer, "hidden") is None

        state = values["cell" if cell == "lstm" else "hidden"][PREFIX : PREFIX + looked]
        norms = np.linalg.norm(state, axis=2)
        count, total = sampled.histogram("state_norm", layer)
        assert count == norms.size
        assert total == pytest.approx(norms.sum(), rel=1e-5)

        if cell == "rnn_tanh":
            assert sampled.histogram("memory_horizon_steps", layer) == (None, None)
            continue
        horizons = -1 / np.log(values["forget" if cell == "lstm" else "update"][PREFIX])
        *bounds, everything = sampled.buckets("memory_horizon_steps", layer)
        assert everything == (np.inf, horizons.size)
        assert all(below == (horizons <= bound).sum() for bound, below in bounds)

    shown = slice(PREFIX - 1, PREFIX + looked - 1)  # what stood before each step
    nats = -logits[shown] + np.log(np.exp(logits[shown]).sum(axis=2, keepdims=True))
    tokens = sampled.tokens[:, PREFIX : PREFIX + looked].T[..., None]
    surprise = np.take_along_axis(nats, tokens, axis=2)
    count, total = sampled.histogram("surprise_nats")
    assert count == surprise.size
    assert total == pytest.approx(surprise.sum(), rel=1e-5)


def test_nothing_is_sampled_where_it_is_switched_off(
    serve: Callable[..., RunningServer], store: Path
) -> None:
    server = serve(store=store, shipped=False, load=["lstm"], gate_sample_seconds=0)
    sampled = Sampled(server, "lstm", 1)
    assert sampled.gauge("gate_activation_mean", 0, "forget") is None
    assert sampled.histogram("state_norm", 0) == (None, None)


def test_gauges_go_with_the_version(serve: Callable[..., RunningServer], store: Path) -> None:
    server = serve(store=store, shipped=False, load=["lstm"])
    value = server.server.metrics.registry.get_sample_value
    labels = {"model": "lstm", "layer": "1", "gate": "forget"}
    assert value("carousel_state_norm_count", {"model": "lstm", "layer": "1"}) == 0
    assert value("carousel_surprise_nats_count", {"model": "lstm"}) == 0
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        session = wire.create("models/lstm")
        wire.outputs([session.handle], [0], np.array([3]))
        until(lambda: value("carousel_gate_activation_mean", labels) is not None)
        wire.models.UnloadModelVersion(
            model_service_pb2.UnloadModelVersionRequest(name="models/lstm/versions/1", force=True)
        )
        assert value("carousel_gate_activation_mean", labels) is None


@pytest.fixture(scope="module")
def with_baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A forecaster of every cell, with a baseline over data of mean 0 and deviation 1."""
    store = tmp_path_factory.mktemp("models")
    torch.manual_seed(5)
    for cell in CELLS:
        config = ModelConfig(cell=cell, layers=LAYERS, hidden_size=32, input=Features(3))
        network = Network(config).eval()
        save(store / "without" / "1", network)
        folder = store / cell.replace("_", "-") / "1"
        save(folder, network)
        (folder / "baseline.json").write_text(measure(network, torch.randn(2000, 3)).to_json())
    return store


def drifts(server: RunningServer, model: str, shift: float) -> dict[tuple[str, str], float]:
    """The stability index of every layer and gate, after one turn of slices."""
    random = np.random.default_rng(2)
    given = random.standard_normal((32, 64, 3)).astype(np.float32) + np.float32(shift)
    before, now = given[:, :60], given[:, 60:]
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        handles = [
            wire.create(f"models/{model}", prefix_inputs=tensors.encode(one)).handle
            for one in before
        ]
        wire.outputs(handles, [60] * 32, now.reshape(-1, 3), [4] * 32)
    server.stop()
    [family] = [
        family
        for family in server.server.metrics.registry.collect()
        if family.name == "carousel_gate_drift_psi"
    ]
    assert {sample.labels["model"] for sample in family.samples} <= {model}
    return {
        (sample.labels["layer"], sample.labels["gate"]): sample.value for sample in family.samples
    }


@pytest.mark.parametrize("cell", CELLS)
def test_drift_is_seen_where_the_data_are_others_and_only_there(
    serve: Callable[..., RunningServer], with_baseline: Path, cell: str
) -> None:
    model = cell.replace("_", "-")
    settings = {
        "store": with_baseline,
        "shipped": False,
        "load": [model],
        "gate_sample_seconds": FIRST_TURN_ONLY,
    }
    same, shifted = (drifts(serve(**settings), model, shift) for shift in (0.0, 3.0))
    named = {*GATES[cell], *({"lstm": ("candidate", "cell"), "gru": ("candidate",)}.get(cell, ()))}
    assert set(same) == {(str(n), gate) for n in range(LAYERS) for gate in (*named, "hidden")}
    assert max(same.values()) < 0.1
    assert all(shifted["0", gate] > 0.25 for gate in (*GATES[cell], "hidden"))


def test_without_a_baseline_there_is_no_drift(
    serve: Callable[..., RunningServer], with_baseline: Path
) -> None:
    settings = {"store": with_baseline, "shipped": False, "load": ["without"]}
    server = serve(**settings, gate_sample_seconds=FIRST_TURN_ONLY)
    assert drifts(server, "without", 3.0) == {}
    labels = {"model": "without", "layer": "0"}
    assert server.server.metrics.registry.get_sample_value("carousel_state_norm_count", labels)


def test_the_stability_index_is_its_definition() -> None:
    expected, found = np.array([0.2, 0.3, 0.5]), np.array([0.4, 0.3, 0.3])
    index = ((found - expected) * np.log(found / expected)).sum()
    assert stability_index(expected.tolist(), found.tolist()) == pytest.approx(index)
    assert stability_index([0.5, 0.5], [0.5, 0.5]) == 0
    assert stability_index([1.0, 0.0], [0.0, 1.0]) > 10  # empty bins have no infinite weight
