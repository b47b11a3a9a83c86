"""Steps in 16 bits: near the reference, states in float32, and one kernel for what is fused."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
import torch
from tests.processes import PATIENCE

from carousel.model import ConfigError, Linear, Network, NoHead, Softmax, Tokens, make_kernel
from carousel.model.config import CELLS, Features
from carousel.model.kernels.fused import HALVES, HalfPrecision
from carousel.model.kernels.persistent import Persistent, is_persistent, padded_rows

MakeNetwork = Callable[..., Network]
B, T = 5, 9
ROOT = Path(__file__).parents[2]
PRECISIONS: tuple[HalfPrecision, ...] = get_args(HalfPrecision)
OFF: dict[HalfPrecision, float] = {"bfloat16": 5e-2, "float16": 6e-3}  # of the largest number

MODELS: list[dict[str, Any]] = [
    *({"cell": cell, "layers": layers} for cell in CELLS for layers in (1, 3)),
    {"input": Tokens(11, 5), "head": Softmax(11)},
    {"projection": 8},
    {"head": NoHead(), "learned_initial_state": True},
]


def inputs(network: Network, time: int = T) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.randn(B, network.schema.width)
    if isinstance(network.config.input, Tokens):
        return torch.randint(network.config.input.vocabulary, (B, time)), rows
    return torch.randn(B, time, network.config.input_size), rows


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_outputs_and_states_are_near_the_reference(
    make_network: MakeNetwork, model: dict[str, Any], precision: HalfPrecision
) -> None:
    network = make_network(**{"hidden_size": 24, **model})
    x, rows = inputs(network, time=1)
    with torch.no_grad():
        y, new = network(x, rows)
    z, rough = make_kernel(network, precision=precision).step(x[:, 0], rows)
    for given, wanted in ((z, y[:, 0]), (rough, new)):
        assert given.dtype == torch.float32
        gap = float((given - wanted).abs().max() / wanted.abs().max())
        assert 0 < gap < OFF[precision]  # not 0: then nothing was rounded


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_small_change_of_a_large_cell_state_is_kept(
    make_network: MakeNetwork, precision: HalfPrecision
) -> None:
    """In 16 bits 1,000 + 0.1 would be 1,000: the cell state must be in float32."""
    network = make_network(cell="lstm", layers=1, hidden_size=4)
    with torch.no_grad():
        for parameter in network.rnn.parameters():
            parameter.zero_()
        network.weights(0).bias_ih[4:8] = 100.0  # the forget gate is open
        network.weights(0).bias_ih[8:12] = 0.2  # the candidate, which an input gate of 1/2 writes
    rows = torch.full((1, network.schema.width), 1000.0)
    x, _ = inputs(network, time=1)
    _, new = make_kernel(network, precision=precision).step(x[:1, 0], rows)
    grown = network.schema.split(new)["c"] - 1000
    torch.testing.assert_close(
        grown, torch.full_like(grown, 0.5 * float(torch.tensor(0.2).tanh())), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_any_cut_of_a_sequence_gives_the_same_numbers(
    make_network: MakeNetwork, precision: HalfPrecision
) -> None:
    network = make_network(layers=2, hidden_size=48)
    kernel = make_kernel(network, precision=precision)
    x, rows = inputs(network)
    lengths = torch.tensor([9, 2, 5, 1, 9])
    whole, end = kernel.chunk(x, lengths, rows)
    for t in range(T):
        riding = lengths > t
        y, rows[riding] = kernel.step(x[riding, t], rows[riding])
        torch.testing.assert_close(y, whole[riding, t], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(rows, end, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_that_is_not_finite_stays_alone_and_shows(
    make_network: MakeNetwork, precision: HalfPrecision
) -> None:
    network = make_network(hidden_size=20)
    kernel = make_kernel(network, precision=precision)
    x, rows = inputs(network)
    clean = kernel.step(x[:, 0], rows)
    rows[2] = float("nan")
    others = [0, 1, 3, 4]
    dirty = kernel.step(x[:, 0], rows)
    for wanted, given in zip(clean, dirty, strict=True):
        assert torch.equal(given[others], wanted[others])
    assert not all(bool(one[2].isfinite().all()) for one in dirty)


def test_what_has_no_next_step_is_refused(make_network: MakeNetwork) -> None:
    with pytest.raises(ConfigError, match="float16 is for models with a next step"):
        make_kernel(make_network(bidirectional=True), precision="float16")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_triton_gates_equal_the_reference_cells() -> None:
    command = [sys.executable, "-m", "tests.model.triton_steps"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    assert len(found) == 12
    bounds = {"float32": 1e-6, "bfloat16": OFF["bfloat16"], "bfloat16 as in torch": 1e-5}
    for case, gap in found.items():
        assert gap < bounds[case.split(" ", 2)[2]], case


FITS: dict[str, Any] = {
    "layers": 1, "hidden_size": 256, "input": Features(128), "head": Linear(2)
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "device", "precision", "wanted"),
    [
        ({}, "cuda", "float16", True),
        ({"hidden_size": 1024}, "cuda", "float16", True),
        ({"input": Tokens(11, 128)}, "cuda", "float16", True),
        ({}, "cpu", "float16", False),
        ({}, "cuda", "bfloat16", False),
        ({"cell": "gru"}, "cuda", "float16", False),
        ({"layers": 2}, "cuda", "float16", False),
        ({"projection": 128}, "cuda", "float16", False),
        ({"bidirectional": True}, "cuda", "float16", False),
        ({"hidden_size": 1152}, "cuda", "float16", False),
        ({"hidden_size": 192}, "cuda", "float16", False),
        ({"input": Features(64)}, "cuda", "float16", False),
    ],
    ids=str,
)
def test_when_the_persistent_kernel_is_taken(
    make_network: MakeNetwork,
    change: dict[str, Any],
    device: Literal["cpu", "cuda"],
    precision: HalfPrecision,
    wanted: bool,
) -> None:
    config = make_network(**{**FITS, **change}).config
    assert is_persistent(config, torch.device(device), HALVES[precision]) == wanted


def test_batches_of_the_persistent_kernel_are_multiples_of_8() -> None:
    assert [padded_rows(rows) for rows in (1, 8, 9, 127, 128)] == [8, 8, 16, 128, 128]


@pytest.mark.parametrize("count", [1, 8, 131])
def test_padded_sequences_equal_the_reference(make_network: MakeNetwork, count: int) -> None:
    """The way of the persistent kernel, but on a CPU and in float32: padding changes nothing."""
    network = make_network(cell="lstm", layers=1, learned_initial_state=True)
    x = torch.randn(count, T, network.config.input_size)
    lengths = torch.randint(1, T + 1, (count,))
    with torch.no_grad():
        wanted, _ = network(x, network.initial_rows(count), lengths)
        for row, length in zip(x, lengths.tolist(), strict=True):
            row[length:] = float("nan")
        y = Persistent(network, torch.float32)(x, lengths)
    torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-5)
