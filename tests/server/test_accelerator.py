"""Turns on an accelerator, on a CPU: the same buckets, buffers and order as on a GPU.

`Host` runs what is captured at once, and gives its outputs in the same memory every time, as a CUDA
graph does. What only a GPU shows is in tests/server/test_gpu.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch

from carousel.model import Features, Linear, ModelConfig, Network, Softmax, StateSchema, Tokens
from carousel.model import load as load_network
from carousel.model.kernels.device import Host
from carousel.model.kernels.fused import Fused
from carousel.server.accelerator import Accelerator
from carousel.server.arena import Arena
from carousel.server.buckets import bucket_sizes
from carousel.server.loaded import LoadedVersion
from carousel.server.parties import Parties
from carousel.server.settings import Settings
from carousel.server.work import Inputs, Ints
from tests.conftest import RunningServer, running
from tests.server.contract import Floats, Wire

CPU = torch.device("cpu")
MOST = 20  # riders of a turn
CONFIGS = (
    ModelConfig(cell="lstm", layers=2, hidden_size=6, input=Features(3), head=Linear(4)),
    ModelConfig(cell="gru", layers=1, hidden_size=5, input=Tokens(11, 4), head=Softmax(11)),
)


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [
        (1, [1]),
        (8, [8]),
        (9, [8, 9]),
        (256, [8, 16, 32, 64, 128, 256]),
        (300, [8, 16, 32, 64, 128, 256, 300]),
    ],
)
def test_buckets_double_up_to_the_largest_batch(largest: int, sizes: list[int]) -> None:
    assert bucket_sizes(largest) == sizes


class Bench:
    """An accelerator over an arena with random states."""

    def __init__(self, config: ModelConfig = CONFIGS[0]) -> None:
        torch.manual_seed(5)
        self.network = Network(config).eval()
        width = StateSchema.of(config).width
        self.arena = Arena(width, limit=64)
        self.rows = self.arena.allocate(64)
        self.arena.write(self.rows, torch.randn(64, width))
        self.random = np.random.default_rng(5)
        x = self.inputs(1)
        with torch.no_grad():
            kernel = Fused(self.network)
            self.accelerator = Accelerator(
                Host(CPU), kernel, self.arena, x=x, outputs=config.output_size, max_batch=MOST
            )

    def inputs(self, batch: int) -> Inputs:
        config = self.network.config
        if isinstance(config.input, Tokens):
            return self.random.integers(0, config.input.vocabulary, batch)
        return self.random.standard_normal((batch, config.input_size)).astype(np.float32)

    @torch.no_grad()
    def wanted(self, x: Inputs, rows: Ints) -> Floats:
        """Outputs and new states of the reference in float64, side by side."""
        inputs, network = torch.from_numpy(x)[:, None], self.network.double()
        state = self.arena.read(rows).double()
        y, new = network(inputs if inputs.dtype == torch.int64 else inputs.double(), state)
        network.float()
        both: Floats = torch.cat([y[:, 0], new], dim=1).numpy()
        return both


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.cell)
def test_every_batch_size_gives_the_numbers_of_the_reference(config: ModelConfig) -> None:
    bench = Bench(config)
    for batch in range(1, MOST + 1):
        rows = bench.random.permutation(bench.rows)[:batch]
        x = bench.inputs(batch)
        wanted = bench.wanted(x, rows)
        launched = bench.accelerator.launch(x, rows)
        done = launched.land()
        assert done.good is None
        assert torch.equal(done.state, bench.arena.read(rows))
        assert done.index.tolist() == rows.tolist()
        found = torch.cat([done.outputs, done.new], dim=1).numpy()
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
        launched.release()


def test_what_two_turns_under_way_gave_is_kept_apart_until_they_are_over() -> None:
    bench = Bench()
    parts, inputs = bench.rows[:24].reshape(3, 8), [bench.inputs(8) for _ in range(3)]
    wanted = [bench.wanted(x, rows) for x, rows in zip(inputs, parts, strict=True)]
    first, second = (bench.accelerator.launch(inputs[i], parts[i]) for i in range(2))
    with pytest.raises(RuntimeError, match="2 turns of 8 rows are under way"):
        bench.accelerator.launch(inputs[2], parts[2])
    done = first.land()
    np.testing.assert_allclose(done.new, wanted[0][:, 4:], rtol=1e-5, atol=1e-5)
    bench.arena.scatter(done.index, done.new)
    first.release()
    third = bench.accelerator.launch(inputs[2], parts[2])
    np.testing.assert_allclose(done.outputs, wanted[0][:, :4], rtol=1e-5, atol=1e-5)
    for launched, own in ((second, wanted[1]), (third, wanted[2])):
        done = launched.land()
        found = torch.cat([done.outputs, done.new], dim=1).numpy()
        np.testing.assert_allclose(found, own, rtol=1e-5, atol=1e-5)
        launched.release()
    np.testing.assert_allclose(bench.arena.read(parts[0]), wanted[0][:, 4:], rtol=1e-5, atol=1e-5)


def test_spare_rows_show_nothing_of_whoever_rode_there_and_spoil_nobody() -> None:
    bench = Bench()
    nan = torch.full((7, bench.arena.width), float("nan"))
    bench.arena.write(bench.rows[:7], nan)  # row 0 among them, which spare rows read
    for _ in range(2):  # both buckets of this size
        launched = bench.accelerator.launch(bench.inputs(7), bench.rows[:7])
        assert launched.land().good is not None
        launched.release()
    for _ in range(2):
        x, rows = bench.inputs(2), bench.rows[10:12]
        wanted = bench.wanted(x, rows)
        launched = bench.accelerator.launch(x, rows)
        done = launched.land()
        assert done.good is None
        assert len(done.outputs) == len(done.new) == len(done.state) == 2
        np.testing.assert_allclose(done.new, wanted[:, 4:], rtol=1e-5, atol=1e-5)
        launched.release()


def test_rows_that_are_not_finite_are_told_from_large_ones() -> None:
    bench = Bench()
    state = torch.zeros(3, bench.arena.width)
    state[1, -12:] = 3e38  # cell states whose sum is infinite, each of them is not
    state[2, -1] = float("nan")
    bench.arena.write(bench.rows[:3], state)
    for bias in (bench.network.rnn.bias_ih_l0, bench.network.rnn.bias_ih_l1):
        assert isinstance(bias, torch.Tensor)
        bias.data[6:12] = 100.0  # what is forgotten: nothing
    bench.accelerator = Accelerator(
        Host(CPU), Fused(bench.network), bench.arena, x=bench.inputs(1), outputs=4, max_batch=MOST
    )
    launched = bench.accelerator.launch(bench.inputs(3), bench.rows[:3])
    good = launched.land().good
    assert good is not None
    assert good.tolist() == [True, True, False]


class Watched(Host):
    """Notes what is launched and what is waited for; a copy down may fail."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.events: list[str] = []
        self.fails = False

    def upload(self, here: torch.Tensor, there: torch.Tensor) -> None:
        self.events.append("launched")
        super().upload(here, there)

    def download(self, there: torch.Tensor, here: torch.Tensor) -> Callable[[], object]:
        super().download(there, here)

        def wait() -> None:
            self.events.append("landed")
            if self.fails:
                raise RuntimeError("the device is gone")

        return wait


@pytest.fixture(scope="module")
def device() -> Watched:
    return Watched()


@pytest.fixture(scope="module")
def server(model_store: Path, device: Watched) -> Iterator[RunningServer]:
    """A server whose versions are accelerated, eight riders a turn."""
    made = LoadedVersion._make_room

    def accelerated(version: LoadedVersion, settings: Settings, parties: Parties | None) -> None:
        made(version, settings, parties)
        version.computes_on = device
        version.accelerate(settings.max_batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoadedVersion, "_make_room", accelerated)
        with running(store=model_store, shipped=False, max_batch=8) as server:
            yield server


@pytest.fixture
def wire(server: RunningServer) -> Iterator[Wire]:
    with grpc.insecure_channel(server.target) as channel:
        yield Wire(channel)


def handles_of(wire: Wire, count: int) -> list[int]:
    return [wire.create().handle for _ in range(count)]


@torch.no_grad()
def reference(model_store: Path, x: Floats) -> Floats:
    """x [N, T, D] from the initial state on, in float64."""
    network = load_network(model_store / "tiny" / "1").double().eval()
    y: Floats = network(torch.from_numpy(x).double(), network.initial_rows(len(x)))[0].numpy()
    return y


def test_sessions_step_in_any_company_as_the_reference_does(wire: Wire, model_store: Path) -> None:
    random = np.random.default_rng(1)
    x = random.standard_normal((29, 12, 3)).astype(np.float32)
    wanted, handles = reference(model_store, x), handles_of(wire, 29)
    for t in range(8):
        order = random.permutation(29)[: None if t % 2 else 29]
        found = wire.outputs([handles[i] for i in order], [t] * len(order), x[order, t])
        np.testing.assert_allclose(found, wanted[order, t], rtol=1e-5, atol=1e-5)
    rest = x[:, 8:].reshape(-1, 3)  # slices go another way, over the same rows
    found = wire.outputs(handles, [8] * 29, rest, [4] * 29)
    np.testing.assert_allclose(found.reshape(29, 4, 2), wanted[:, 8:], rtol=1e-5, atol=1e-5)


def test_the_next_turn_is_launched_before_the_last_is_waited_for(
    wire: Wire, device: Watched
) -> None:
    handles = handles_of(wire, 32)  # four turns of eight, from one message
    device.events.clear()
    wire.outputs(handles, [0] * 32, np.zeros((32, 3), np.float32))
    assert device.events == ["launched", *["launched", "landed"] * 3, "landed"]


def test_steps_of_one_session_that_wait_together_ride_one_after_the_other(
    wire: Wire, model_store: Path
) -> None:
    x = np.random.default_rng(2).standard_normal((1, 6, 3)).astype(np.float32)
    [handle] = handles_of(wire, 1)
    found = wire.outputs([handle] * 6, list(range(6)), x[0])
    np.testing.assert_allclose(found, reference(model_store, x)[0], rtol=1e-5, atol=1e-5)


def test_a_turn_that_fails_on_the_device_changes_nothing(
    wire: Wire, device: Watched, model_store: Path
) -> None:
    x = np.random.default_rng(3).standard_normal((9, 3, 3)).astype(np.float32)
    wanted, handles = reference(model_store, x), handles_of(wire, 9)
    wire.outputs(handles, [0] * 9, x[:, 0])
    for _ in range(3):  # buckets come back, or there would be none the third time
        device.fails = True
        response = wire.step(handles, [1] * 9, x[:, 1])
        device.fails = False
        assert [error.reason for error in response.errors] == ["INTERNAL"] * 9
    for t in (1, 2):
        found = wire.outputs(handles, [t] * 9, x[:, t])
        np.testing.assert_allclose(found, wanted[:, t], rtol=1e-5, atol=1e-5)


def test_a_session_that_explodes_is_quarantined_and_its_neighbours_go_on(
    wire: Wire, server: RunningServer
) -> None:
    handles = [wire.create("models/explosive").handle for _ in range(5)]
    x = np.ones((5, 1), np.float32)
    x[3] = 3e38
    response = wire.step(handles, [0] * 5, x)
    assert [(error.item, error.reason) for error in response.errors] == [(3, "SESSION_QUARANTINED")]
    others = [handle for place, handle in enumerate(handles) if place != 3]
    assert np.isfinite(wire.outputs(others, [1] * 4, x[:4] * 0)).all()
