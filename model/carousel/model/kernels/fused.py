"""All gates in one product, in eager torch, on any device: the default for CUDA."""

import torch
from torch import Tensor

from carousel.model.cells import State
from carousel.model.kernels.kernel import forward_only
from carousel.model.network import Network


class Fused:
    """Steps in one product over [x, h] a layer; chunks and sequences through torch's layers."""

    name = "fused"

    def __init__(self, network: Network, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.network = network.to(self.device)
        depth = 0 if network.config.bidirectional else network.config.layers
        self.layers = [_Layer(network, layer) for layer in range(depth)]

    @torch.no_grad()
    def step(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        forward_only(self.network)
        values = self.network.encode(x)  # [B, D]
        before = self.network.schema.split(rows)
        after: list[State] = []
        for index, layer in enumerate(self.layers):
            state = {name: v[:, index] for name, v in before.items()}
            after.append(layer(values, state))
            values = after[-1]["h"]  # [B, P]
        pieces = [state[name] for name in before for state in after]
        return self.network.decode(values, x), torch.cat(pieces, dim=1)

    @torch.no_grad()
    def chunk(self, x: Tensor, lengths: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        forward_only(self.network)
        even = bool((lengths == x.shape[1]).all())
        return self.network.forward_fused(x, rows, None if even else lengths)

    @torch.no_grad()
    def sequences(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.network.forward_fused(x, self.network.initial_rows(len(x)), lengths)[0]


class _Layer:
    """The weights of one layer, joined for one product, and the step that uses them."""

    def __init__(self, network: Network, layer: int) -> None:
        w = network.weights(layer)
        self.cell = network.config.cell
        # [D + P, G H]; the GRU keeps two products, since its reset gate stands between them.
        self.joined = torch.cat([w.ih, w.hh], dim=1).T.detach().contiguous()
        self.bias = (w.bias_ih + w.bias_hh).detach()
        self.weights = w

    def __call__(self, x: Tensor, state: State) -> State:
        if self.cell == "gru":
            return self._gru(x, state["h"])
        z = torch.addmm(self.bias, torch.cat([x, state["h"]], dim=1), self.joined)  # [B, G H]
        if self.cell == "lstm":
            return self._lstm(z, state["c"])
        return {"h": torch.tanh(z) if self.cell == "rnn_tanh" else torch.relu(z)}

    def _lstm(self, z: Tensor, c: Tensor) -> State:
        hidden = c.shape[1]
        i, f = z[:, : 2 * hidden].sigmoid().chunk(2, dim=1)
        g, o = z[:, 2 * hidden : 3 * hidden].tanh(), z[:, 3 * hidden :].sigmoid()
        c = torch.addcmul(f * c, i, g)
        h = o * c.tanh()
        return {"h": h if self.weights.hr is None else h @ self.weights.hr.T, "c": c}

    def _gru(self, x: Tensor, h: Tensor) -> State:
        w, hidden = self.weights, h.shape[1]
        read = torch.addmm(w.bias_ih, x, w.ih.T)  # [B, 3 H]
        kept = torch.addmm(w.bias_hh, h, w.hh.T)
        r, z = (read[:, : 2 * hidden] + kept[:, : 2 * hidden]).sigmoid().chunk(2, dim=1)
        n = torch.addcmul(read[:, 2 * hidden :], r, kept[:, 2 * hidden :]).tanh()
        return {"h": torch.lerp(n, h, z)}
