"""On a GPU: everything that a CPU can only imitate, against the reference in float64 on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch

from carousel.client import Client
from carousel.model import (
    Features,
    Linear,
    ModelConfig,
    Network,
    Softmax,
    StepPrecision,
    Tokens,
    make_kernel,
    save,
)
from carousel.model.config import CELLS, Cell
from carousel.model.kernels.device import Cuda
from carousel.model.kernels.fused import Fused, Half
from carousel.model.kernels.gates import TORCH, gates_for
from carousel.model.kernels.persistent import Persistent, is_persistent
from carousel.server.accelerator import Accelerator
from carousel.server.arena import Arena
from carousel.server.work import Inputs
from tests.conftest import RunningServer, running
from tests.server.contract import Floats, Wire

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

# Of the largest number. float32 products are float32: torch leaves TF32 off for them.
OFF: dict[StepPrecision, float] = {"float32": 1e-5, "bfloat16": 5e-2, "float16": 6e-3}
SESSIONS, STEPS = 70, 12


def network_of(cell: Cell = "lstm", *, tokens: bool = False, hidden: int = 96) -> Network:
    torch.manual_seed(11)
    return Network(
        ModelConfig(
            cell=cell,
            layers=2,
            hidden_size=hidden,
            input=Tokens(11, 16) if tokens else Features(16),
            head=Softmax(11) if tokens else Linear(8),
        )
    ).eval()


def assert_near(found: torch.Tensor, wanted: torch.Tensor, precision: StepPrecision) -> None:
    bound = OFF[precision] * float(wanted.abs().max())
    torch.testing.assert_close(found.cpu().double(), wanted.double(), rtol=0, atol=bound)


@pytest.mark.parametrize("precision", OFF)
@pytest.mark.parametrize("cell", CELLS)
@torch.no_grad()
def test_kernels_equal_the_reference(cell: Cell, precision: StepPrecision) -> None:
    truth = network_of(cell).double()
    x, rows = torch.randn(37, 5, 16), torch.randn(37, truth.schema.width)
    lengths = torch.randint(1, 6, (37,))
    kernel = make_kernel(network_of(cell), "cuda", precision=precision)
    for given, wanted in zip(
        kernel.step(x[:, 0].cuda(), rows.cuda()),
        truth(x[:, :1].double(), rows.double()),
        strict=True,
    ):
        assert_near(given, wanted.reshape(given.shape), precision)
    for given, wanted in zip(
        kernel.chunk(x.cuda(), lengths, rows.cuda()),
        truth(x.double(), rows.double(), lengths),
        strict=True,
    ):
        assert_near(given, wanted, precision)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gates_in_one_kernel_equal_those_of_torch(cell: Cell, half: bool) -> None:
    gates = gates_for(torch.device("cuda"))
    assert gates.name == "triton"
    x, rows = torch.randn(37, 16).cuda(), torch.randn(37, network_of(cell).schema.width).cuda()
    kind = Half if half else Fused
    found = kind(network_of(cell), "cuda", gates=gates).step(x, rows)
    wanted = kind(network_of(cell), "cuda", gates=TORCH).step(x, rows)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(
            one, other, rtol=1e-2 if half else 1e-5, atol=1e-2 if half else 1e-5
        )


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("precision", OFF)
@torch.no_grad()
def test_captured_turns_equal_the_kernel_called_plainly(
    precision: StepPrecision, tokens: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """With two turns under way all the time, each of another size."""
    network = network_of(tokens=tokens)
    arena = Arena(network.schema.width, limit=256, device="cuda")
    rows = arena.allocate(256)
    arena.write(rows, torch.randn(256, arena.width))
    kernel = make_kernel(network, "cuda", precision=precision)
    random = np.random.default_rng(1)

    def inputs(batch: int) -> Inputs:
        if tokens:
            return random.integers(0, 11, batch)
        return random.standard_normal((batch, 16)).astype(np.float32)

    accelerator = Accelerator(
        Cuda(torch.device("cuda:0")), kernel, arena, x=inputs(1), outputs=11 if tokens else 8,
        max_batch=100,
    )  # fmt: skip
    assert "without a CUDA graph" not in caplog.text
    truth = arena.read(rows)
    under_way = []
    for turn in range(40):
        batch = int(random.integers(1, 101))
        riders = random.permutation(rows[:128] if turn % 2 else rows[128:])[:batch]
        x = inputs(batch)
        wanted = kernel.step(torch.from_numpy(x).cuda(), truth[torch.from_numpy(riders).cuda()])
        truth[torch.from_numpy(riders).cuda()] = wanted[1]
        under_way.append((accelerator.launch(x, riders), wanted))
        while len(under_way) == 2 or (turn == 39 and under_way):
            launched, (y, new) = under_way.pop(0)
            done = launched.land()
            assert done.good is None
            torch.testing.assert_close(done.outputs, y.cpu(), rtol=1e-2, atol=1e-2)
            torch.testing.assert_close(done.new, new, rtol=1e-2, atol=1e-2)
            arena.scatter(done.index, done.new)
            launched.release()
    torch.testing.assert_close(arena.read(rows), truth, rtol=1e-2, atol=1e-2)


@torch.no_grad()
def test_sequences_through_the_persistent_kernel_equal_the_reference() -> None:
    config = ModelConfig(
        cell="lstm", layers=1, hidden_size=256, input=Features(128), head=Linear(4)
    )
    network, x = Network(config).eval(), torch.randn(131, 20, 128)
    lengths = torch.randint(1, 21, (131,))
    wanted, _ = network(x, network.initial_rows(131), lengths)
    assert is_persistent(config, torch.device("cuda"), torch.float16)
    kernel = make_kernel(network, "cuda", precision="float16")
    assert isinstance(kernel, Half)
    assert isinstance(kernel.persistent, Persistent)
    assert_near(kernel.sequences(x.cuda(), lengths), wanted, "float16")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("models")
    save(store / "features" / "1", network_of())
    save(store / "letters" / "1", network_of("gru", tokens=True))
    return store


@pytest.fixture(scope="module", params=[*OFF, "exact"])
def server(store: Path, request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    exact = request.param == "exact"
    precision = "float32" if exact else request.param
    with running(
        store=store,
        shipped=False,
        device="cuda",
        precision=precision,
        bit_exact=exact,
        max_batch=32,
    ) as server:
        yield server


@torch.no_grad()
def test_a_server_gives_the_numbers_of_the_reference(server: RunningServer) -> None:
    precision = server.settings.precision
    x = np.random.default_rng(2).standard_normal((SESSIONS, STEPS, 16)).astype(np.float32)
    truth = network_of().double()
    wanted, _ = truth(torch.from_numpy(x).double(), truth.initial_rows(SESSIONS))
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        handles = [wire.create("models/features").handle for _ in range(SESSIONS)]
        found: list[Floats] = [
            wire.outputs(handles, [t] * SESSIONS, x[:, t]) for t in range(STEPS - 4)
        ]
        rest = x[:, -4:].reshape(-1, 16)
        last = wire.outputs(handles, [STEPS - 4] * SESSIONS, rest, [4] * SESSIONS)
    stepped = np.concatenate([np.stack(found, 1), last.reshape(SESSIONS, 4, -1)], axis=1)
    assert_near(torch.from_numpy(stepped), wanted, precision)


def test_a_server_predicts_traces_and_rewinds(server: RunningServer) -> None:
    x = np.random.default_rng(3).standard_normal((STEPS, 16)).astype(np.float32)
    near = np.testing.assert_allclose
    with Client(server.target) as client, client.session("features", rewind_depth=4) as session:
        stepped = np.stack([session.step(one) for one in x])
        near(client.predict("features", [x])[0], stepped, rtol=0, atol=5e-2)
        near(client.trace("features", x).outputs, stepped, rtol=0, atol=5e-2)
        session.rewind(steps=2)
        near(session.chunk(x[-2:]), stepped[-2:], rtol=0, atol=5e-2)
