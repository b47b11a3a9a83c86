"""Gradient norms are the true total derivatives, and planted diseases are named."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from carousel.model import Features, Linear, ModelConfig, ModelError, Network, NoHead
from carousel.model.cells import Weights, lstm
from carousel.model.config import Cell
from carousel.model.gradients import GradientFlow, LayerGradients, diagnose, spectral_radius

MakeNetwork = Callable[..., Network]
B, T = 3, 9


def last(y: Tensor) -> Tensor:
    """A loss at the last step alone, different for each row and output."""
    weights = torch.arange(1.0, y.shape[2] + 1, dtype=y.dtype)
    return (y[:, -1] ** 2 * weights).sum(1).mean()


def recurrent(matrix: Tensor, cell: Cell = "rnn_relu") -> Network:
    """An RNN of one layer with the given recurrent weights and a bias that keeps it linear."""
    h = len(matrix)
    config = ModelConfig(cell=cell, layers=1, hidden_size=h, input=Features(1), head=Linear(1))
    network = Network(config).double()
    with torch.no_grad():
        network.rnn.get_parameter("weight_hh_l0").copy_(matrix)
        network.rnn.get_parameter("weight_ih_l0").fill_(0.1)
        network.rnn.get_parameter("bias_ih_l0").zero_()
        network.rnn.get_parameter("bias_hh_l0").zero_()
        assert isinstance(network.head, torch.nn.Linear)
        network.head.weight.uniform_(0.5, 1.0)
    return network


def look(network: Network, steps: int, **options: float) -> GradientFlow:
    x = torch.rand(B, steps, 1, dtype=torch.float64)
    rows = network.initial_rows(B)
    return diagnose(network, x, rows, lambda y: y[:, -1].mean(), **options)


def scaled(matrix: Tensor, radius: float) -> Tensor:
    matrix = matrix.double()
    return matrix * (radius / float(torch.linalg.eigvals(matrix).abs().max()))


def by_hand(network: Network, x: Tensor) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """dL/dh_t and dL/dc_t [layer][t] of a net written out here: a gradient of what is added to
    a state is the total derivative by that state.
    """
    config, p = network.config, network.state_dict()
    size, layers = config.hidden_size, config.layers
    nudges = torch.zeros(2, layers, T, B, size).double()
    nudge_h, nudge_c = ([[v.clone().requires_grad_() for v in row] for row in n] for n in nudges)
    h = [torch.zeros(B, size).double() for _ in range(layers)]
    c = [torch.zeros(B, size).double() for _ in range(layers)]
    below = x[:, 0]  # what the layer reads
    for t in range(T):
        below = x[:, t]
        for layer in range(layers):
            w, u = p[f"rnn.weight_ih_l{layer}"], p[f"rnn.weight_hh_l{layer}"]
            b, d = p[f"rnn.bias_ih_l{layer}"], p[f"rnn.bias_hh_l{layer}"]
            one, two = below @ w.T + b, h[layer] @ u.T + d
            if config.cell == "lstm":
                i, f, g, o = (one + two).split(size, dim=1)
                c[layer] = f.sigmoid() * c[layer] + i.sigmoid() * g.tanh() + nudge_c[layer][t]
                h[layer] = o.sigmoid() * c[layer].tanh()
            elif config.cell == "gru":
                r = (one[:, :size] + two[:, :size]).sigmoid()
                z = (one[:, size : 2 * size] + two[:, size : 2 * size]).sigmoid()
                n = (one[:, 2 * size :] + r * two[:, 2 * size :]).tanh()
                h[layer] = (1 - z) * n + z * h[layer]
            else:
                h[layer] = (one + two).tanh()
            h[layer] = below = h[layer] + nudge_h[layer][t]
    y = below @ p["head.weight"].T + p["head.bias"]
    last(y[:, None]).backward()  # type: ignore[no-untyped-call]
    zero = torch.zeros(B, size)
    hidden = [[zero if v.grad is None else v.grad for v in layer] for layer in nudge_h]
    cells = [[zero if v.grad is None else v.grad for v in layer] for layer in nudge_c]
    return hidden, cells


def norms(gradients: list[Tensor]) -> list[float]:
    return [float(g.norm(dim=1).mean()) for g in reversed(gradients)]


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_norms_equal_those_of_a_net_unrolled_by_hand(make_network: MakeNetwork, cell: str) -> None:
    network = make_network(cell=cell).double()
    x = torch.randn(B, T, 3, dtype=torch.float64)
    flow = diagnose(network, x, network.initial_rows(B), last)
    hidden, cells = by_hand(network, x)
    for found, by_h, by_c in zip(flow.layers, hidden, cells, strict=True):
        assert found.hidden_norms == pytest.approx(norms(by_h), rel=1e-10, abs=1e-14)
        if cell == "lstm":
            assert found.cell_norms == pytest.approx(norms(by_c), rel=1e-10, abs=1e-14)
        else:
            assert found.cell_norms == ()


def test_linear_gradient_is_the_power_of_the_matrix() -> None:
    matrix = scaled(torch.rand(5, 5), 0.8)
    network = recurrent(matrix)
    flow = look(network, 30)
    assert isinstance(network.head, torch.nn.Linear)
    gradient = network.head.weight.detach()[0] / B
    for norm in flow.layers[0].hidden_norms:
        assert norm == pytest.approx(float(gradient.norm()), rel=1e-10)
        gradient = matrix.T @ gradient


def test_one_step_of_the_cell_state_is_the_carousel_and_the_way_around() -> None:
    """The formula of docs/theory.md, of a step whose hidden state came out of the cell state."""
    n, real = 5, torch.float64
    x, c, o = (torch.randn(1, n, dtype=real) for _ in range(3))
    o = o.sigmoid()
    w = Weights(*(torch.randn(4 * n, *size, dtype=real) for size in ((n,), (n,), (), ())))

    def step(c: Tensor) -> Tensor:
        return lstm(x, {"h": o * torch.tanh(c), "c": c}, w)[0]["c"]

    found = torch.autograd.functional.jacobian(step, c)[0, :, 0]  # type: ignore[no-untyped-call]
    _, gates = lstm(x, {"h": o * torch.tanh(c), "c": c}, w)
    i, f, g = (gates[name][0] for name in ("input", "forget", "candidate"))
    u_i, u_f, u_g, _ = w.hh.chunk(4)
    around = (
        torch.diag(c[0] * f * (1 - f)) @ u_f
        + torch.diag(g * i * (1 - i)) @ u_i
        + torch.diag(i * (1 - g**2)) @ u_g
    )
    shown = torch.diag(o[0] * (1 - torch.tanh(c[0]) ** 2))
    torch.testing.assert_close(found, torch.diag(f) + around @ shown, rtol=1e-12, atol=1e-12)


def test_small_radius_is_named_vanishing() -> None:
    orthogonal = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64)).Q
    flow = look(recurrent(0.5 * orthogonal, "rnn_tanh"), 100)
    assert flow.vanishing
    assert not flow.exploding
    assert flow.layers[0].spectral_radius == pytest.approx(0.5, rel=1e-6)
    # At best it halves at each step: 2^-7 is the first under 1 %.
    assert flow.layers[0].horizon <= 7
    assert flow.verdict.startswith("The gradient vanishes: in every layer")


def test_large_radius_is_named_exploding() -> None:
    flow = look(recurrent(scaled(torch.rand(16, 16), 1.5)), 60)
    assert flow.exploding
    assert not flow.vanishing
    assert flow.layers[0].hidden_norms[-1] / flow.layers[0].hidden_norms[0] > 1.4**59
    assert flow.verdict.startswith("The gradient explodes: 59 steps back")


def test_orthogonal_matrix_is_named_neither() -> None:
    flow = look(recurrent(torch.eye(16)[torch.randperm(16)].double()), 100)
    assert (flow.vanishing, flow.exploding) == (False, False)
    assert flow.layers[0].horizon == 100
    assert min(flow.layers[0].hidden_norms) == pytest.approx(flow.layers[0].hidden_norms[0])
    assert flow.verdict == "The gradient reaches back over all 100 steps."


def test_open_forget_gate_carries_the_gradient_in_the_cell_alone(make_network: MakeNetwork) -> None:
    network = make_network(layers=1, head=NoHead()).double()
    with torch.no_grad():
        for parameter in network.rnn.parameters():
            parameter.mul_(0.05)
    x = torch.randn(B, 100, 3, dtype=torch.float64)
    horizons = []
    for bias in (0.0, 6.0):
        network.set_forget_bias(bias)
        flow = diagnose(network, x, network.initial_rows(B), last)
        horizons.append(flow.layers[0].horizon)
        assert flow.vanishing == (bias == 0.0)
    assert horizons[0] < 10  # half of the cell state goes at each step
    assert horizons[1] == 100  # sigmoid(6)^100 is 0.78
    assert flow.layers[0].forget_mean == pytest.approx(1 / (1 + math.exp(-6)), abs=1e-3)
    assert flow.layers[0].forget_histogram == (0,) * 9 + (1,)
    assert flow.layers[0].hidden_norms[50] < 0.01 * flow.layers[0].hidden_norms[0]


def test_overflow_is_exploding_and_stays_a_number() -> None:
    flow = look(recurrent(scaled(torch.rand(4, 4), 1.5)).float().double(), 3000)
    assert flow.exploding
    assert all(math.isfinite(norm) for norm in flow.layers[0].hidden_norms)


def test_no_gradient_at_all_is_vanishing() -> None:
    network = recurrent(scaled(torch.rand(4, 4), 1.0))
    x = torch.rand(B, 20, 1, dtype=torch.float64)
    flow = diagnose(network, x, network.initial_rows(B), lambda y: (0 * y).sum())
    assert flow.vanishing
    assert flow.layers[0].horizon == 0


def test_spectral_radius_is_of_the_candidate(make_network: MakeNetwork) -> None:
    network = make_network(cell="gru", hidden_size=3)
    with torch.no_grad():
        hh = network.rnn.get_parameter("weight_hh_l1")
        hh[6:] = torch.tensor([[0.0, -2.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.5]])
    assert spectral_radius(network, 1) == pytest.approx(2.0)  # a rotation, doubled


@pytest.mark.parametrize("shape", [{"projection": 4}, {"bidirectional": True}, {"layers": 3}])
def test_every_shape_of_network_can_be_looked_at(
    make_network: MakeNetwork, shape: dict[str, Any]
) -> None:
    network = make_network(**shape)
    flow = diagnose(network, torch.randn(2, 5, 3), network.initial_rows(2), last)
    assert [layer.layer for layer in flow.layers] == list(range(network.config.layers))
    assert all(len(layer.hidden_norms) == 5 for layer in flow.layers)
    assert all(sum(layer.forget_histogram) == pytest.approx(1) for layer in flow.layers)


def test_looking_changes_nothing(make_network: MakeNetwork) -> None:
    network = make_network(dropout=0.5).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x, rows = torch.randn(2, 5, 3), network.initial_rows(2)
    with torch.no_grad():
        assert diagnose(network, x, rows, last) == diagnose(network, x, rows, last)
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_dictionary_has_the_names_of_the_proto(make_network: MakeNetwork) -> None:
    from carousel.v1 import training_pb2 as pb

    for cell in ("lstm", "rnn_tanh"):
        network = make_network(cell=cell)
        flow = diagnose(network, torch.randn(2, 5, 3), network.initial_rows(2), last)
        given = flow.to_dict()
        layers = [pb.LayerGradients(**layer) for layer in given.pop("layers")]
        message = pb.GradientFlow(step=1, layers=layers, **given)
        assert len(message.layers) == 2
        assert message.layers[0].HasField("forget_mean") == (cell == "lstm")


def test_share_of_clipped_updates_is_told_and_checked() -> None:
    network = recurrent(scaled(torch.rand(4, 4), 1.0))
    assert look(network, 5, clipped_ratio=0.25).verdict.endswith(
        "; 25 % of the updates were clipped."
    )
    with pytest.raises(ModelError, match=r"clipped_ratio must be between 0 and 1, got 1\.5"):
        look(network, 5, clipped_ratio=1.5)
    with pytest.raises(ModelError, match="at least 1 step, got 0"):
        look(network, 0)
    with pytest.raises(ModelError, match="horizon must be between 0 and the 1 steps"):
        LayerGradients(0, (1.0,), (), 2, None, (), 1.0)


def test_chrono_bias_spreads_the_memories() -> None:
    config = ModelConfig(cell="lstm", layers=2, hidden_size=500, input=Features(1), head=NoHead())
    network = Network(config)
    network.set_chrono_bias(100, torch.Generator().manual_seed(1))
    for layer in range(2):
        bias = network.weights(layer).bias_ih + network.weights(layer).bias_hh
        gate_i, gate_f, _, _ = bias.detach().chunk(4)
        assert torch.equal(gate_i, -gate_f)
        steps = torch.exp(gate_f)
        assert 1 <= steps.min() < 5
        assert 95 < steps.max() <= 99 + 1e-3
        assert float(steps.mean()) == pytest.approx(50, abs=5)


def test_chrono_bias_refuses_other_cells_and_too_few_steps(make_network: MakeNetwork) -> None:
    with pytest.raises(ModelError, match="for lstm only, got gru"):
        make_network(cell="gru").set_chrono_bias(10)
    with pytest.raises(ModelError, match="must be at least 2, got 1"):
        make_network().set_chrono_bias(1)
