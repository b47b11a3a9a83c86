"""The numerical contract: the same bits where that was asked for; audits that watch the rest."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from torch import Tensor

from carousel.client import Client, HealthRule
from carousel.model import Features, Kernel, Linear, ModelConfig, Network, save
from carousel.model.config import Cell
from carousel.model.kernels.kernel import OfTensors
from carousel.server.batch_audit import TOLERANCE
from tests.conftest import RunningServer, running
from tests.server.contract import Floats, Wire
from tests.server.holder import Holder, outputs

SESSIONS, STEPS, SIZE = 64, 12, 5
MODELS: tuple[Cell, ...] = ("lstm", "gru")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models large enough that a batch adds in another order than a step alone."""
    store = tmp_path_factory.mktemp("models")
    torch.manual_seed(3)
    for cell in MODELS:
        config = ModelConfig(
            cell=cell, layers=2, hidden_size=72, input=Features(SIZE), head=Linear(3)
        )
        save(store / cell / "1", Network(config))
    return store


@pytest.fixture(scope="module")
def exact(store: Path) -> Iterator[RunningServer]:
    """A bit-exact server whose turns and slices are cut oddly."""
    with running(store=store, shipped=False, bit_exact=True, chunk_slice=7, max_batch=50) as server:
        yield server


@pytest.fixture
def wire(exact: RunningServer) -> Iterator[Wire]:
    with grpc.insecure_channel(exact.target) as channel:
        yield Wire(channel)


def alone(wire: Wire, model: str, inputs: Floats) -> Floats:
    """Each session by itself, step by step: [N, T, D] -> [N, T, O]."""
    return np.stack(
        [
            np.concatenate([wire.outputs([handle], [t], one[t : t + 1]) for t in range(STEPS)])
            for one, handle in zip(inputs, handles_of(wire, model), strict=True)
        ]
    )


def together(wire: Wire, model: str, inputs: Floats) -> Floats:
    """All sessions in every turn."""
    handles = handles_of(wire, model)
    steps = [wire.outputs(handles, [t] * SESSIONS, inputs[:, t]) for t in range(STEPS)]
    return np.stack(steps, axis=1)


def in_chunks(wire: Wire, model: str, inputs: Floats) -> Floats:
    """Every sequence cut at places of its own, the pieces in messages of any size."""
    random = np.random.default_rng(5)
    handles, done = handles_of(wire, model), np.zeros(SESSIONS, np.int64)
    found: list[list[Floats]] = [[] for _ in handles]
    while (left := np.flatnonzero(done < STEPS)).size:
        some = random.permutation(left)[: random.integers(1, left.size + 1)]
        lengths = np.minimum(random.integers(1, 14, some.size), STEPS - done[some])
        pieces = [inputs[i, done[i] : done[i] + n] for i, n in zip(some, lengths, strict=True)]
        rows = wire.outputs(
            [handles[i] for i in some],
            done[some].tolist(),
            np.concatenate(pieces),
            lengths.tolist(),
        )
        for i, part in zip(some, np.split(rows, np.cumsum(lengths)[:-1]), strict=True):
            found[i].append(part)
        done[some] += lengths
    return np.stack([np.concatenate(rows) for rows in found])


def beside_neighbours(wire: Wire, model: str, inputs: Floats) -> Floats:
    """Among others with large inputs, in another place of the batch at every step."""
    random = np.random.default_rng(6)
    others = 40
    handles = [*handles_of(wire, model), *handles_of(wire, model, others)]
    steps = []
    for t in range(STEPS):
        noise = random.standard_normal((others, SIZE)).astype(np.float32) * 100
        order = random.permutation(len(handles))
        values = np.concatenate([inputs[:, t], noise])[order]
        rows = wire.outputs([handles[i] for i in order], [t] * len(handles), values)
        steps.append(rows[np.argsort(order)][:SESSIONS])
    return np.stack(steps, axis=1)


def held(wire: Wire, model: str, inputs: Floats) -> Floats:
    """As states that the caller holds, first step by step, then in a chunk each."""
    holder, states = Holder(wire, f"models/{model}"), [b""] * SESSIONS
    half, steps = STEPS // 2, []
    for t in range(half):
        response = holder(states, inputs[:, t])
        steps.append(outputs(response))
        states = list(response.states)
    rest = inputs[:, half:].reshape(-1, SIZE)
    chunk = outputs(holder(states, rest, [STEPS - half] * SESSIONS))
    whole = chunk.reshape(SESSIONS, STEPS - half, -1)
    return np.concatenate([np.stack(steps, axis=1), whole], axis=1)


def handles_of(wire: Wire, model: str, count: int = SESSIONS) -> list[int]:
    return [wire.create(f"models/{model}").handle for _ in range(count)]


Way = Callable[[Wire, str, Floats], Floats]
WAYS: tuple[Way, ...] = (together, in_chunks, beside_neighbours, held)


@pytest.mark.parametrize("model", MODELS)
def test_a_bit_exact_session_gives_the_same_bits_in_any_company_place_and_cut(
    wire: Wire, model: str
) -> None:
    inputs = np.random.default_rng(4).standard_normal((SESSIONS, STEPS, SIZE)).astype(np.float32)
    wanted = alone(wire, model, inputs).tobytes()
    for way in WAYS:
        assert way(wire, model, inputs).tobytes() == wanted, way.__name__


def test_a_health_policy_acts_to_the_same_bits_in_any_company_place_and_cut(
    exact: RunningServer, wire: Wire
) -> None:
    inputs = np.random.default_rng(9).standard_normal((SESSIONS, STEPS, SIZE)).astype(np.float32)
    free = together(wire, "lstm", inputs)
    rules = [HealthRule("state_norm", 0.4, "clip"), HealthRule("age", 5, "soft_reset")]
    with Client(exact.target) as client:
        client.set_health_policy("lstm", rules)
        try:
            wanted = alone(wire, "lstm", inputs)
            assert (wanted != free).any(axis=(1, 2)).all()  # the rules reach every session
            for way in WAYS:
                assert way(wire, "lstm", inputs).tobytes() == wanted.tobytes(), way.__name__
        finally:
            client.set_health_policy("lstm", [])


def test_a_server_says_whether_it_is_bit_exact(exact: RunningServer, server: RunningServer) -> None:
    for one, wanted in ((exact, True), (server, False)):
        with Client(one.target) as client:
            assert client.server_info().bit_exact is wanted
    kernels = [
        sample.labels["kernel"]
        for family in exact.server.metrics.registry.collect()
        if family.name == "carousel_model_info"
        for sample in family.samples
    ]
    assert kernels == ["onnx, padded to 16"] * len(MODELS)


class Leaky(OfTensors):
    """A kernel whose rows take a thousandth of what the rows beside them hold."""

    def __init__(self, kernel: Kernel) -> None:
        self.name, self.device = kernel.name, kernel.device
        self._kernel = kernel

    def step(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        y, new = self._kernel.step(x, rows)
        return y, new + 1e-3 * (new.sum(0, keepdim=True) - new)

    def chunk(self, x: Tensor, lengths: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        y, new = self._kernel.chunk(x, lengths, rows)
        return y, new + 1e-3 * (new.sum(0, keepdim=True) - new)

    def sequences(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self._kernel.sequences(x, lengths)


def audited(server: RunningServer, length: int) -> tuple[float, float]:
    """Steps or chunks in company until the server stops: its audits, the largest difference."""
    random = np.random.default_rng(8)
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        handles = handles_of(wire, "lstm", 8)
        for turn in range(6):
            inputs = random.standard_normal((8 * length, SIZE)).astype(np.float32)
            wire.outputs(handles, [turn * length] * 8, inputs, [length] * 8)
    server.stop()  # what is being compared is finished
    value = server.server.metrics.registry.get_sample_value
    model = {"model": "lstm"}
    audits = value("carousel_batch_audits_total", model)
    largest = value("carousel_batch_audit_max_abs_difference", model)
    assert audits is not None
    assert largest is not None
    return audits, largest


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What the audit logs."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("carousel.audit").addHandler(handler)
    yield lines
    logging.getLogger("carousel.audit").removeHandler(handler)


@pytest.mark.parametrize("length", [1, 5, 40])
@pytest.mark.parametrize(("bit_exact", "allowed"), [(False, TOLERANCE["cpu"]), (True, 0.0)])
def test_audited_rows_keep_the_contract(
    serve: Callable[..., RunningServer],
    store: Path,
    warnings: list[str],
    bit_exact: bool,
    allowed: float,
    length: int,
) -> None:
    server = serve(
        store=store, shipped=False, bit_exact=bit_exact, batch_audit_every=1, chunk_slice=30
    )
    audits, largest = audited(server, length)
    assert audits > 0
    assert largest <= allowed
    assert not warnings


@pytest.mark.parametrize("length", [1, 5])
def test_an_audit_finds_a_row_that_depends_on_its_neighbours(
    serve: Callable[..., RunningServer], store: Path, warnings: list[str], length: int
) -> None:
    server = serve(store=store, shipped=False, batch_audit_every=1)
    [version] = [v for v in server.server.hall.engine.versions if v.model == "lstm"]
    version.kernel = Leaky(version.kernel)
    audits, largest = audited(server, length)
    assert audits > 0
    assert largest > 10 * TOLERANCE["cpu"]
    assert "models/lstm/versions/1" in warnings[0]


def test_no_audit_runs_where_it_is_switched_off(
    serve: Callable[..., RunningServer], store: Path
) -> None:
    assert audited(serve(store=store, shipped=False, batch_audit_every=0), 1) == (0, 0)
