"""Steps in 8 bits: near the reference, each row by itself, any cut alike."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from carousel.model import (
    ConfigError,
    Linear,
    ModelConfig,
    Network,
    NoHead,
    Softmax,
    Tokens,
    load,
    make_kernel,
    shipped,
)
from carousel.model.config import CELLS, Features
from carousel.model.kernels.int8 import LEVELS, STATE_LEVELS, quantized
from carousel.model.precision import compare

MakeNetwork = Callable[..., Network]
B, T = 5, 9
VERSE = "In the beginning God created the heaven and the earth.\nAnd the earth was without form"

MODELS: list[dict[str, Any]] = [
    *({"cell": cell, "layers": layers} for cell in CELLS for layers in (1, 3)),
    {"input": Tokens(11, 5), "head": Softmax(11)},
    {"projection": 8},
    {"head": Linear(2), "learned_initial_state": True},
]


def inputs(network: Network, batch: int = B, time: int = T) -> tuple[torch.Tensor, torch.Tensor]:
    config = network.config
    rows = torch.randn(batch, network.schema.width)
    if isinstance(config.input, Tokens):
        return torch.randint(config.input.vocabulary, (batch, time)), rows
    return torch.randn(batch, time, config.input_size), rows


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_outputs_and_states_are_near_the_reference(
    make_network: MakeNetwork, model: dict[str, Any]
) -> None:
    network = make_network(**{"hidden_size": 24, **model})
    x, rows = inputs(network, time=1)
    with torch.no_grad():
        y, new = network(x, rows)
    z, rough = make_kernel(network, precision="int8").step(x[:, 0], rows)
    for given, wanted in ((z, y[:, 0]), (rough, new)):
        gap = float((given - wanted).abs().max() / wanted.abs().max())
        assert 0 < gap < 0.1  # not 0: then nothing was rounded


def test_the_product_is_that_of_the_rounded_state_and_the_rounded_weights(
    make_network: MakeNetwork,
) -> None:
    network = make_network(cell="rnn_tanh", layers=1, hidden_size=24, head=NoHead())
    x, h = inputs(network)
    w = network.weights(0)
    whole, scales = quantized(w.hh)
    largest = h.abs().amax(1, keepdim=True)  # [B, 1]
    state = (h / largest * STATE_LEVELS).round().double()  # [B, H]
    product = state @ whole.double().T * scales * largest / STATE_LEVELS
    wanted = (x[:, 0] @ w.ih.T + w.bias_ih + w.bias_hh + product).tanh()
    y, new = make_kernel(network, precision="int8").step(x[:, 0], h)
    torch.testing.assert_close(new.double(), wanted, rtol=0, atol=1e-6)
    assert torch.equal(y, new)


def test_a_weight_is_rounded_by_the_scale_of_its_own_unit() -> None:
    weight = torch.tensor([[1.0, -0.5, 0.0], [0.001, 0.0005, -0.001], [0.0, 0.0, 0.0]])
    whole, scales = quantized(weight)
    assert whole.tolist() == [[127, -64, 0], [127, 64, -127], [0, 0, 0]]
    torch.testing.assert_close(whole * scales[:, None], weight, rtol=0, atol=0.51 / LEVELS)


@pytest.mark.parametrize("cell", CELLS)
def test_a_neighbour_with_a_huge_state_changes_nothing(
    make_network: MakeNetwork, cell: str
) -> None:
    network = make_network(cell=cell, hidden_size=40)
    kernel = make_kernel(network, precision="int8")
    x, rows = inputs(network)
    huge = rows.clone()
    huge[2] *= 1000
    others = [0, 1, 3, 4]
    for given, wanted in zip(kernel.step(x[:, 0], huge), kernel.step(x[:, 0], rows), strict=True):
        torch.testing.assert_close(given[others], wanted[others], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_a_row_that_is_not_finite_stays_alone_and_shows(
    make_network: MakeNetwork, cell: str
) -> None:
    network = make_network(cell=cell, hidden_size=20)
    kernel = make_kernel(network, precision="int8")
    x, rows = inputs(network)
    clean = kernel.step(x[:, 0], rows)
    rows[2] = float("nan")
    others = [0, 1, 3, 4]
    dirty = kernel.step(x[:, 0], rows)
    for wanted, given in zip(clean, dirty, strict=True):
        assert torch.equal(given[others], wanted[others])
    assert not all(bool(one[2].isfinite().all()) for one in dirty)


def test_any_cut_of_a_sequence_gives_the_same_numbers(make_network: MakeNetwork) -> None:
    network = make_network(layers=2, hidden_size=48)
    kernel = make_kernel(network, precision="int8")
    x, start = inputs(network, batch=1, time=6)
    whole, end = kernel.chunk(x, torch.tensor([6]), start)
    rows, single = start, []
    for t in range(6):
        y, rows = kernel.step(x[:, t], rows)
        single.append(y)
    assert torch.equal(torch.stack(single, 1), whole)
    assert torch.equal(rows, end)
    initial = kernel.chunk(x, torch.tensor([6]), network.initial_rows(1))[0]
    assert torch.equal(kernel.sequences(x, torch.tensor([6])), initial)


def test_the_shipped_model_of_characters_hardly_notices() -> None:
    network = load(shipped()["king-james"] / "1")
    assert network.config.tokenizer is not None
    found = compare(network, torch.tensor([network.config.tokenizer.encode(VERSE)]))
    assert found.steps == len(VERSE)
    assert 0 < found.share < 0.05
    assert 0 < abs(found.more_bits) < 0.02


def test_a_model_of_features_has_no_bits() -> None:
    torch.manual_seed(0)
    network = Network(
        ModelConfig(cell="gru", layers=1, hidden_size=16, input=Features(3), head=Linear(2))
    )
    found = compare(network, torch.randn(2, 7, 3))
    assert (found.steps, found.bits == found.bits) == (14, False)


def test_what_has_no_next_step_or_no_cpu_is_refused(make_network: MakeNetwork) -> None:
    with pytest.raises(ConfigError, match="with a next step, got a bidirectional one"):
        make_kernel(make_network(bidirectional=True), precision="int8")
    with pytest.raises(ConfigError, match="int8 runs on cpu, got cuda"):
        make_kernel(make_network(), "cuda", precision="int8")
