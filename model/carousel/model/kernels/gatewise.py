"""The naive kernel: every gate its own small products, one step after the other.

It is kept as the baseline that the faster kernels are measured against.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear

from carousel.model.cells import State, Weights
from carousel.model.kernels.kernel import OfTensors, chunk_by_steps, forward_only
from carousel.model.network import Network


class Gatewise(OfTensors):
    """Eight products a layer and step for the LSTM, six for the GRU, two for the RNN."""

    name = "gatewise"

    def __init__(self, network: Network, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.network = network.to(self.device)
        depth = 0 if network.config.bidirectional else network.config.layers
        self.layers = [_gates(network, layer) for layer in range(depth)]

    @torch.no_grad()
    def step(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        forward_only(self.network)
        values = self.network.encode(x)  # [B, D]
        before = self.network.schema.split(rows)
        after: list[State] = []
        for layer, gates in enumerate(self.layers):
            state = {name: v[:, layer] for name, v in before.items()}
            after.append(CELLS[self.network.config.cell](values, state, gates))
            values = after[-1]["h"]  # [B, P]
        stacked = {name: torch.stack([s[name] for s in after], dim=1) for name in before}
        return self.network.decode(values, x), self.network.schema.join(stacked)

    def chunk(self, x: Tensor, lengths: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        forward_only(self.network)
        return chunk_by_steps(self.step, x, lengths, rows, self.network.config.output_size)

    @torch.no_grad()
    def sequences(self, x: Tensor, lengths: Tensor) -> Tensor:
        rows = self.network.initial_rows(len(x))
        if self.network.config.bidirectional:
            return self.network.forward(x, rows, lengths)[0]
        return self.chunk(x, lengths, rows)[0]


def _gates(network: Network, layer: int) -> list[Weights]:
    """The weights of each gate apart."""
    w, gates = network.weights(layer), {"lstm": 4, "gru": 3}.get(network.config.cell, 1)
    parts = zip(*(v.chunk(gates) for v in (w.ih, w.hh, w.bias_ih, w.bias_hh)), strict=True)
    return [Weights(ih, hh, bias_ih, bias_hh, w.hr) for ih, hh, bias_ih, bias_hh in parts]


def _sum(x: Tensor, h: Tensor, w: Weights) -> Tensor:
    return linear(x, w.ih, w.bias_ih) + linear(h, w.hh, w.bias_hh)


def _lstm(x: Tensor, state: State, gates: list[Weights]) -> State:
    i, f, g, o = (_sum(x, state["h"], w) for w in gates)
    c = torch.sigmoid(f) * state["c"] + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return {"h": h if gates[0].hr is None else linear(h, gates[0].hr), "c": c}


def _gru(x: Tensor, state: State, gates: list[Weights]) -> State:
    reset, update, new = gates
    h = state["h"]
    r, z = torch.sigmoid(_sum(x, h, reset)), torch.sigmoid(_sum(x, h, update))
    gated = r * linear(h, new.hh, new.bias_hh)
    n = torch.tanh(linear(x, new.ih, new.bias_ih) + gated)
    return {"h": (1 - z) * n + z * h}


def _rnn_tanh(x: Tensor, state: State, gates: list[Weights]) -> State:
    return {"h": torch.tanh(_sum(x, state["h"], gates[0]))}


def _rnn_relu(x: Tensor, state: State, gates: list[Weights]) -> State:
    return {"h": torch.relu(_sum(x, state["h"], gates[0]))}


CELLS = {"lstm": _lstm, "gru": _gru, "rnn_tanh": _rnn_tanh, "rnn_relu": _rnn_relu}
