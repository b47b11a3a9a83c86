"""All gates in one product, in torch, on any device: the default for CUDA, and 16-bit weights."""

from typing import Literal

import torch
from torch import Tensor

from carousel.model.cells import State
from carousel.model.errors import ConfigError
from carousel.model.kernels.gates import Gates, gates_for
from carousel.model.kernels.kernel import OfTensors, chunk_by_steps, forward_only
from carousel.model.kernels.persistent import Persistent
from carousel.model.network import Network

HalfPrecision = Literal["bfloat16", "float16"]
HALVES: dict[str, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Fused(OfTensors):
    """Steps in one product over [x, h] a layer; chunks and sequences through torch's layers."""

    name = "fused"
    dtype = torch.float32  # of products

    def __init__(self, network: Network, device: str = "cpu", gates: Gates | None = None) -> None:
        self.device = torch.device(device)
        self.network = network.to(self.device)
        gates = gates or gates_for(self.device)
        depth = 0 if network.config.bidirectional else network.config.layers
        self.layers = [_Layer(network, layer, self.dtype, gates) for layer in range(depth)]

    @torch.no_grad()
    def step(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        forward_only(self.network)
        values = self.network.encode(x)  # [B, D]
        new = torch.empty_like(rows)
        before, after = self.network.schema.split(rows), self.network.schema.split(new)
        for index, layer in enumerate(self.layers):
            state, written = ({n: v[:, index] for n, v in s.items()} for s in (before, after))
            layer(values, state, written)
            values = written["h"]  # [B, P]
        # Without a head the last hidden state is the output, which must not share the row's memory.
        y = self.network.decode(values, x)
        return y.clone() if y is values else y, new

    @torch.no_grad()
    def chunk(self, x: Tensor, lengths: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        forward_only(self.network)
        even = bool((lengths == x.shape[1]).all())
        return self.network.forward_fused(x, rows, None if even else lengths)

    @torch.no_grad()
    def sequences(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.network.forward_fused(x, self.network.initial_rows(len(x)), lengths)[0]


class Half(Fused):
    """The same steps with weights and products in 16 bits; gates and states stay in float32.

    The head stays in float32 too. Chunks run step by step, so that any cut of a sequence gives
    the same numbers; whole sequences run in float32, or through cuDNN's persistent kernel.
    """

    def __init__(
        self,
        network: Network,
        device: str = "cpu",
        precision: HalfPrecision = "bfloat16",
        gates: Gates | None = None,
    ) -> None:
        check_half(network, precision)
        self.name: str = precision
        self.dtype = HALVES[precision]
        super().__init__(network, device, gates)
        self.persistent = Persistent.of(network, self.device, self.dtype)

    @torch.no_grad()
    def chunk(self, x: Tensor, lengths: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return chunk_by_steps(self.step, x, lengths, rows, self.network.config.output_size)

    @torch.no_grad()
    def sequences(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.persistent is not None:
            return self.persistent(x, lengths)
        return super().sequences(x, lengths)


def check_half(network: Network, precision: str) -> None:
    """Raises ConfigError for what has no next step."""
    if network.config.bidirectional:
        raise ConfigError(
            f"precision {precision} is for models with a next step, got a bidirectional one"
        )


class _Layer:
    """The weights of one layer, joined for one product, and the step that uses them."""

    def __init__(self, network: Network, layer: int, dtype: torch.dtype, gates: Gates) -> None:
        w = network.weights(layer)
        self.cell = network.config.cell
        self.gates, self.dtype = gates, dtype
        # The GRU keeps two products, since its reset gate stands between them.
        joined = [w.ih, w.hh] if self.cell == "gru" else [torch.cat([w.ih, w.hh], dim=1)]
        self.weights = [_prepared(weight, dtype) for weight in joined]  # [D + P, G H]
        self.biases = [bias.detach().float() for bias in (w.bias_ih, w.bias_hh)]
        self.bias = self.biases[0] + self.biases[1]
        self.projection = None if w.hr is None else _prepared(w.hr, dtype)  # [H, P]

    def __call__(self, x: Tensor, state: State, new: State) -> None:
        """Write the state after x into `new`."""
        h = state["h"]
        if self.cell == "gru":
            read, kept = x.to(self.dtype) @ self.weights[0], h.to(self.dtype) @ self.weights[1]
            self.gates.gru(read, kept, self.biases[0], self.biases[1], h, new["h"])
            return
        z = self._joined(x, h) @ self.weights[0]  # [B, G H]
        if self.cell == "lstm":
            hidden = new["h"] if self.projection is None else torch.empty_like(state["c"])
            self.gates.lstm(z, self.bias, state["c"], hidden, new["c"])
            if self.projection is not None:
                new["h"].copy_(hidden.to(self.dtype) @ self.projection)
        elif self.cell == "rnn_tanh":
            torch.tanh(z + self.bias, out=new["h"])
        else:
            torch.clamp_min(z + self.bias, 0, out=new["h"])

    def _joined(self, x: Tensor, h: Tensor) -> Tensor:
        """[x, h] as the product reads it, cast on the way. [B, D + P]"""
        both = torch.empty(len(x), x.shape[1] + h.shape[1], dtype=self.dtype, device=x.device)
        return torch.cat([x, h], dim=1, out=both)


def _prepared(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.detach().T.to(dtype).contiguous()
