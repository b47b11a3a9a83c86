"""Every kernel gives the reference's numbers, and no row can be told from its neighbours."""

import math
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from carousel.model import (
    KERNELS,
    Classifier,
    ConfigError,
    Features,
    Linear,
    Network,
    NoHead,
    Normalization,
    Softmax,
    Tokens,
    make_kernel,
)
from carousel.model.config import CELLS
from carousel.model.kernels.ragged import cuts

MakeNetwork = Callable[..., Network]
B, T = 5, 9
LENGTHS = torch.tensor([9, 2, 5, 1, 9])

STATISTICS = Normalization((1.0, -2.0, 30.0), (0.5, 2.0, 10.0))
MODELS: list[dict[str, Any]] = [
    *({"cell": cell, "layers": layers} for cell in CELLS for layers in (1, 2, 3)),
    *({"cell": cell, "input": Tokens(11, 5), "head": Softmax(11)} for cell in CELLS),
    *({"cell": cell, "bidirectional": True} for cell in CELLS),
    {"input": Tokens(3000, 5), "head": Classifier(("yes", "no", "maybe"))},
    {"cell": "gru", "head": NoHead(), "learned_initial_state": True},
    {"learned_initial_state": True, "hidden_size": 33},
    {"projection": 4},
    {"projection": 4, "input": Tokens(11, 5), "layers": 3},
    {"projection": 4, "bidirectional": True},
    {
        "normalization": STATISTICS,
        "head": Linear(2),
        "output_normalization": Normalization((100.0, 0.0), (5.0, 1.0)),
    },
    {"normalization": STATISTICS, "head": Linear(4, residual=2), "layers": 2},
    {"bidirectional": True, "input": Tokens(11, 5), "learned_initial_state": True},
]
FORWARD = [model for model in MODELS if not model.get("bidirectional")]


def inputs(network: Network, batch: int = B, time: int = T) -> tuple[Tensor, Tensor]:
    config = network.config
    if isinstance(config.input, Tokens):
        x = torch.randint(config.input.vocabulary, (batch, time))
    else:
        x = torch.randn(batch, time, config.input_size)
    return x, torch.randn(batch, network.schema.width)


def spoil_padding(x: Tensor, lengths: Tensor) -> Tensor:
    x = x.clone()
    for i, length in enumerate(lengths):
        x[i, length:] = float("nan") if x.is_floating_point() else -(2**40)
    return x


def assert_same(given: Tensor, wanted: Tensor) -> None:
    assert given.shape == wanted.shape
    assert given.dtype == torch.float32
    torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("model", FORWARD, ids=str)
def test_step_and_chunk_equal_the_reference(
    make_network: MakeNetwork, name: str, model: dict[str, Any]
) -> None:
    network = make_network(**model)
    x, rows = inputs(network)
    kernel = make_kernel(network, name=name)
    before = rows.clone()
    with torch.no_grad():
        for given, wanted in zip(kernel.step(x[:, 0], rows), network(x[:, :1], rows), strict=True):
            assert_same(given if given.dim() == wanted.dim() else given[:, None], wanted)
        for lengths in (LENGTHS, torch.full((B,), T)):
            done = kernel.chunk(spoil_padding(x, lengths), lengths, rows)
            for given, wanted in zip(done, network(x, rows, lengths), strict=True):
                assert_same(given, wanted)
    assert torch.equal(rows, before)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_sequences_equal_the_reference(
    make_network: MakeNetwork, name: str, model: dict[str, Any]
) -> None:
    network = make_network(**model)
    x, _ = inputs(network)
    with torch.no_grad():
        wanted, _ = network(x, network.initial_rows(B), LENGTHS)
    y = make_kernel(network, name=name).sequences(spoil_padding(x, LENGTHS), LENGTHS)
    assert_same(y, wanted)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("cell", CELLS)
@hypothesis.given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_split_sequence_equals_whole(
    make_network: MakeNetwork, name: str, cell: str, sizes: list[int]
) -> None:
    network = make_network(cell=cell)
    x, rows = inputs(network, batch=2, time=sum(sizes))
    kernel = make_kernel(network, name=name)
    whole, end = kernel.chunk(x, torch.full((2,), sum(sizes)), rows)
    pieces, at = [], 0
    for size in sizes:
        part = x[:, at : at + size]
        if size == 1:
            y, rows = kernel.step(part[:, 0], rows)
            y = y[:, None]
        else:
            y, rows = kernel.chunk(part, torch.full((2,), size), rows)
        pieces.append(y)
        at += size
    assert_same(torch.cat(pieces, dim=1), whole)
    assert_same(rows, end)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("cell", CELLS)
def test_row_does_not_depend_on_its_neighbours(
    make_network: MakeNetwork, name: str, cell: str
) -> None:
    network = make_network(cell=cell, hidden_size=40)
    kernel = make_kernel(network, name=name)
    x, rows = inputs(network, batch=37)
    lengths = torch.randint(1, T + 1, (37,))
    y, after = kernel.step(x[:, 0], rows)
    z, ended = kernel.chunk(x, lengths, rows)
    for i in (0, 17, 36):
        one = slice(i, i + 1)
        for given, wanted in zip(kernel.step(x[one, 0], rows[one]), (y, after), strict=True):
            assert_same(given, wanted[one])
        alone = kernel.chunk(x[one], lengths[one], rows[one])
        for given, wanted in zip(alone, (z, ended), strict=True):
            assert_same(given, wanted[one])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize("place", ["input", "state"])
def test_row_that_is_not_finite_stays_alone_and_shows(
    make_network: MakeNetwork, name: str, cell: str, bad: float, place: str
) -> None:
    network = make_network(cell=cell, hidden_size=20)
    kernel = make_kernel(network, name=name)
    x, rows = inputs(network)
    clean = [kernel.step(x[:, 0], rows), kernel.chunk(x, LENGTHS, rows)]
    x, rows = x.clone(), rows.clone()
    (x if place == "input" else rows)[2] = bad
    others = [0, 1, 3, 4]
    dirty = [kernel.step(x[:, 0], rows), kernel.chunk(x, LENGTHS, rows)]
    for before, after in zip(clean, dirty, strict=True):
        for wanted, given in zip(before, after, strict=True):
            assert torch.equal(given[others], wanted[others])
    if not math.isfinite(bad):  # whether 3e38 overflows depends on the order of a sum
        for y, new in dirty:
            assert not (y[2].isfinite().all() and new[2].isfinite().all())


@pytest.mark.parametrize("name", KERNELS)
def test_bidirectional_model_has_no_next_step(make_network: MakeNetwork, name: str) -> None:
    network = make_network(bidirectional=True)
    kernel = make_kernel(network, name=name)
    x, rows = inputs(network)
    with pytest.raises(ValueError, match="whole sequences only"):
        kernel.step(x[:, 0], rows)
    with pytest.raises(ValueError, match="whole sequences only"):
        kernel.chunk(x, LENGTHS, rows)


def test_cpu_gets_onnx_and_unknown_kernels_are_refused(make_network: MakeNetwork) -> None:
    network = make_network()
    kernel = make_kernel(network)
    assert (kernel.name, kernel.device) == ("onnx", torch.device("cpu"))
    with pytest.raises(ConfigError, match="one of gatewise, fused, onnx, got 'quantum'"):
        make_kernel(network, name="quantum")
    with pytest.raises(ConfigError, match="onnx kernel runs on cpu, got cuda"):
        make_kernel(network, "cuda", "onnx")


def test_result_stays_the_callers(make_network: MakeNetwork) -> None:
    network = make_network()
    for name in KERNELS:
        kernel = make_kernel(network, name=name)
        x, rows = inputs(network)
        y, after = kernel.step(x[:, 0], rows)
        kept = y.clone(), after.clone()
        kernel.step(x[:, 1], after)
        rows.zero_()
        assert torch.equal(y, kept[0])
        assert torch.equal(after, kept[1])
        after += 1  # writable outside of no_grad


@hypothesis.given(
    lengths=st.lists(st.integers(1, 330), min_size=1, max_size=80),
    row_cost=st.floats(0.01, 100),
    call_cost=st.floats(0, 1000),
)
def test_cuts_cover_every_step_once(lengths: list[int], row_cost: float, call_cost: float) -> None:
    plan = cuts(torch.tensor(lengths).numpy(), row_cost, call_cost)
    assert [begin for begin, _, _ in plan] == [0, *(end for _, end, _ in plan[:-1])]
    assert plan[-1][1] == max(lengths)
    assert all(n == sum(length > begin for length in lengths) for begin, _, n in plan)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["gatewise", "fused"])
@pytest.mark.parametrize("model", FORWARD, ids=str)
def test_kernels_on_the_gpu_equal_the_reference(
    make_network: MakeNetwork, name: str, model: dict[str, Any]
) -> None:
    network = make_network(**model)
    x, rows = inputs(network)
    with torch.no_grad():
        wanted, after = network(x, rows, LENGTHS)
    kernel = make_kernel(network, "cuda", name)
    device = kernel.device
    y, new = kernel.chunk(x.to(device), LENGTHS, rows.to(device))
    assert_same(y.cpu(), wanted)
    assert_same(new.cpu(), after)


def test_features_of_one_number_are_enough(make_network: MakeNetwork) -> None:
    network = make_network(input=Features(1), head=Linear(1), layers=1, hidden_size=1)
    x, rows = inputs(network, batch=1, time=1)
    with torch.no_grad():
        wanted, _ = network(x, rows)
    for name in KERNELS:
        assert_same(make_kernel(network, name=name).step(x[:, 0], rows)[0], wanted[:, 0])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("cell", CELLS)
def test_a_bit_exact_row_is_the_same_to_the_last_bit_in_any_company_and_any_cut(
    make_network: MakeNetwork, name: str, cell: str
) -> None:
    network = make_network(cell=cell, layers=2, hidden_size=48)
    kernel = make_kernel(network, name=name, bit_exact=True)
    x, rows = inputs(network, batch=1, time=12)
    alone, after = kernel.chunk(x, torch.tensor([12]), rows)
    for company, cuts_at in ((1, [1] * 12), (7, [5, 7]), (40, [1, 4, 1, 6])):
        state, at = torch.randn(company, rows.shape[1]), 0
        place = company // 2
        state[place] = rows[0]
        for cut in cuts_at:
            window = torch.randn(company, cut, x.shape[2]) * 10
            window[place] = x[0, at : at + cut]
            if cut == 1:
                y, state = kernel.step(window[:, 0], state)
                y = y[:, None]
            else:
                lengths = torch.randint(1, cut + 1, (company,))
                lengths[place] = cut
                y, state = kernel.chunk(window, lengths, state)
            assert torch.equal(y[place], alone[0, at : at + cut])
            at += cut
        assert torch.equal(state[place], after[0])


@pytest.mark.parametrize("name", ["gatewise", "fused", "bfloat16", "padded"])
@pytest.mark.parametrize("model", FORWARD, ids=str)
def test_no_step_reads_a_number_back_from_its_device_or_mixes_devices(
    make_network: MakeNetwork, name: str, model: dict[str, Any]
) -> None:
    """As a CUDA graph needs it. On `meta`, which has no numbers, to look at one is an error."""
    network, device = make_network(**model), torch.device("meta")
    kernel = make_kernel(
        network,
        "meta",
        name="gatewise" if name == "gatewise" else "fused",
        precision="bfloat16" if name == "bfloat16" else "float32",
        bit_exact=name == "padded",
    )
    x, rows = (v.to(device) for v in inputs(network))
    found = [kernel.step(x[:, 0], rows)]
    if name != "fused":  # its chunks go through torch's layers, which pack them
        found.append(kernel.chunk(x, LENGTHS, rows))
    for y, new in found:
        assert y.device == new.device == device
        assert new.shape == rows.shape
