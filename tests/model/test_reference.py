"""The reference network is torch's, can be cut anywhere, ignores padding and has true gradients."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from carousel.model import Features, Linear, Network, NoHead, Normalization, Softmax, Tokens
from carousel.model.config import CELLS

MakeNetwork = Callable[..., Network]
EXACT = 1e-10  # float64
B, T = 4, 7
LENGTHS = torch.tensor([7, 1, 4, 6])

SHAPES: list[dict[str, Any]] = [
    {"cell": cell, "layers": layers} for cell in CELLS for layers in (1, 2, 3)
] + [
    {"projection": 4},
    {"projection": 4, "bidirectional": True},
    {"bidirectional": True},
    {"cell": "gru", "bidirectional": True, "layers": 3},
    {"cell": "rnn_relu", "bidirectional": True},
]


def torchs_own(network: Network) -> nn.RNNBase:
    """A fresh torch module given the weights by name, not through anything of ours."""
    c = network.config
    kinds = {"lstm": nn.LSTM, "gru": nn.GRU}
    extra: dict[str, Any] = {"proj_size": c.projection} if c.projection else {}
    if c.cell.startswith("rnn"):
        extra["nonlinearity"] = c.cell[4:]
    module: nn.RNNBase = kinds.get(c.cell, nn.RNN)(
        3, c.hidden_size, c.layers, batch_first=True, bidirectional=c.bidirectional, **extra
    ).double()
    names = {k.removeprefix("rnn."): v for k, v in network.state_dict().items() if "rnn." in k}
    module.load_state_dict(names)
    return module


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("ragged", [False, True])
def test_reference_equals_torch(
    make_network: MakeNetwork, shape: dict[str, Any], ragged: bool
) -> None:
    network = make_network(head=NoHead(), **shape).double()
    x = torch.randn(B, T, 3, dtype=torch.float64)
    rows = torch.randn(B, network.schema.width, dtype=torch.float64)
    y, after = network(x, rows, LENGTHS if ragged else None)

    parts = [v.transpose(0, 1).contiguous() for v in network.schema.split(rows).values()]
    state = tuple(parts) if len(parts) == 2 else parts[0]
    module = torchs_own(network)
    if ragged:
        packed = pack_padded_sequence(x, LENGTHS, True, enforce_sorted=False)
        out, state = module(packed, state)
        wanted, _ = pad_packed_sequence(out, True, total_length=T)
    else:
        wanted, state = module(x, state)
    tensors = state if isinstance(state, tuple) else (state,)
    names = [spec.name for spec in network.schema.tensors]
    rows_wanted = network.schema.join(
        {name: v.transpose(0, 1) for name, v in zip(names, tensors, strict=True)}
    )
    torch.testing.assert_close(y, wanted, rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(after, rows_wanted, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("cell", CELLS)
@given(cuts=st.sets(st.integers(1, T - 1)))
def test_split_sequence_equals_whole(make_network: MakeNetwork, cell: str, cuts: set[int]) -> None:
    network = make_network(cell=cell, learned_initial_state=True).double()
    x = torch.randn(B, T, 3, dtype=torch.float64)
    whole, end = network(x, network.initial_rows(B))
    pieces, rows = [], network.initial_rows(B)
    places = [0, *sorted(cuts), T]
    for begin, stop in pairwise(places):
        y, rows = network(x[:, begin:stop], rows)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(rows, end, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_does_not_matter(make_network: MakeNetwork, cell: str, bidirectional: bool) -> None:
    network = make_network(cell=cell, bidirectional=bidirectional).double()
    x = torch.randn(B, T, 3, dtype=torch.float64)
    rows = network.initial_rows(B)
    for i, length in enumerate(LENGTHS):
        x[i, length:] = float("nan")
    y, after = network(x, rows, LENGTHS)
    for i, length in enumerate(LENGTHS.tolist()):
        alone, state = network(x[i : i + 1, :length], rows[:1])
        torch.testing.assert_close(y[i, :length], alone[0], rtol=EXACT, atol=EXACT)
        torch.testing.assert_close(after[i], state[0], rtol=EXACT, atol=EXACT)
        assert torch.equal(y[i, length:], torch.zeros_like(y[i, length:]))


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_gradients_are_those_of_finite_differences(make_network: MakeNetwork, cell: str) -> None:
    network = make_network(cell=cell, hidden_size=3, learned_initial_state=True).double()
    names = [name for name, _ in network.named_parameters()]
    lengths = torch.tensor([3, 2])

    def run(x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        given = dict(zip(names, parameters, strict=True))
        rows = network.schema.join({k[8:]: v[None] for k, v in given.items() if "initial" in k})
        outputs: tuple[Tensor, Tensor] = torch.func.functional_call(
            network, given, (x, rows.repeat(2, 1), lengths)
        )
        return outputs

    x = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x, *network.parameters()))


@pytest.mark.parametrize("cell", CELLS)
def test_trace_is_what_forward_computed(make_network: MakeNetwork, cell: str) -> None:
    network = make_network(cell=cell).double()
    x = torch.randn(T, 3, dtype=torch.float64)
    rows = torch.randn(1, network.schema.width, dtype=torch.float64)
    trace = network.trace(x, rows)
    y, after = network(x[None], rows)
    torch.testing.assert_close(trace.outputs, y[0], rtol=0, atol=0)
    torch.testing.assert_close(trace.rows, after, rtol=0, atol=0)
    last = network.schema.split(after)["h"][0]
    assert torch.equal(trace.gates["hidden"][-1], last)
    assert {tuple(v.shape) for v in trace.gates.values()} == {(T, 2, 6)}


def test_traced_gates_satisfy_the_equations_of_the_lstm(make_network: MakeNetwork) -> None:
    network = make_network().double()
    x = torch.randn(T, 3, dtype=torch.float64)
    rows = torch.randn(1, network.schema.width, dtype=torch.float64)
    g = network.trace(x, rows).gates
    start = network.schema.split(rows)
    c_before = torch.cat([start["c"], g["cell"][:-1]])  # [T, L, H]
    h_before = torch.cat([start["h"], g["hidden"][:-1]])
    cell = g["forget"] * c_before + g["input"] * g["candidate"]
    torch.testing.assert_close(g["cell"], cell, rtol=EXACT, atol=EXACT)
    hidden = g["output"] * torch.tanh(cell)
    torch.testing.assert_close(g["hidden"], hidden, rtol=EXACT, atol=EXACT)
    # The second layer's forget gate, from its rows of the weights (the second of four blocks).
    w, second = network.weights(1), slice(6, 12)
    z = g["hidden"][:, 0] @ w.ih[second].T + h_before[:, 1] @ w.hh[second].T
    forget = torch.sigmoid(z + w.bias_ih[second] + w.bias_hh[second])
    torch.testing.assert_close(g["forget"][:, 1], forget, rtol=EXACT, atol=EXACT)


def test_normalisation_is_inside_the_network(make_network: MakeNetwork) -> None:
    inward, outward = Normalization((1.0, 2.0), (3.0, 0.5)), Normalization((7.0,), (2.0,))
    plain = make_network(input=Features(2), head=Linear(1))
    scaled = make_network(
        input=Features(2), head=Linear(1), normalization=inward, output_normalization=outward
    )
    scaled.load_state_dict(plain.state_dict())
    x = torch.randn(B, T, 2)
    rows = plain.initial_rows(B)
    wanted = plain((x - torch.tensor([1.0, 2.0])) / torch.tensor([3.0, 0.5]), rows)[0] * 2 + 7
    torch.testing.assert_close(scaled(x, rows)[0], wanted)


def test_a_residual_adds_the_present_values_to_every_step_ahead(
    make_network: MakeNetwork,
) -> None:
    inward, outward = (
        Normalization((1.0, 2.0, 0.0), (3.0, 0.5, 1.0)),
        Normalization((7.0,) * 4, (2.0,) * 4),
    )
    plain, residual = (
        make_network(
            input=Features(3), head=head, normalization=inward, output_normalization=outward
        )
        for head in (Linear(4), Linear(4, residual=2))
    )
    residual.load_state_dict(plain.state_dict())
    x, rows, lengths = torch.randn(B, T, 3), plain.initial_rows(B), torch.tensor([T, 1, 2, T])[:B]
    wanted = plain(x, rows, lengths)[0]
    for row, length in enumerate(lengths.tolist()):
        wanted[row, :length] += torch.cat([x[row, :length, :2]] * 2, dim=1)
    torch.testing.assert_close(residual(x, rows, lengths)[0], wanted)
    torch.testing.assert_close(residual.forward_fused(x, rows, lengths)[0], wanted)


def test_new_lstm_starts_with_an_open_forget_gate() -> None:
    from carousel.model import ModelConfig

    config = ModelConfig(cell="lstm", layers=2, hidden_size=4, input=Tokens(5, 3), head=Softmax(5))
    weights = Network(config).weights(1)
    assert (weights.bias_ih + weights.bias_hh)[4:8].tolist() == [1.0] * 4


@pytest.mark.parametrize("cell", CELLS)
def test_rows_are_the_named_tensors_in_order(make_network: MakeNetwork, cell: str) -> None:
    schema = make_network(cell=cell).schema
    rows = torch.randn(B, schema.width)
    assert [s.name for s in schema.tensors] == (["h", "c"] if cell == "lstm" else ["h"])
    assert torch.equal(schema.join(schema.split(rows)), rows)
    assert torch.equal(schema.split(rows)["h"][:, 1], rows[:, 6:12])
