"""Steps with the products over hidden states in whole numbers of 8 bits, through onnxruntime."""

from __future__ import annotations

import torch
from torch import Tensor

from carousel.model.config import ModelConfig
from carousel.model.errors import ConfigError
from carousel.model.kernels.graph import MICROSOFT, Graph, step_graph
from carousel.model.kernels.kernel import Array, OfArrays, chunk_by_steps
from carousel.model.kernels.onnx import open_session, run_session
from carousel.model.network import Network

LEVELS = 127  # on both sides of zero
# What a CPU without VNNI adds up in pairs must fit into 16 bits: 2 x 63 x 127 does, and so a hidden
# state has 7 bits there; with VNNI it has 8.
STATE_LEVELS = LEVELS if torch.cpu._is_vnni_supported() else 63
LEAST = 1e-30  # in place of the largest of nothing but zeros


class Int8Graph(Graph):
    """Every unit's weights have a scale of their own, and so has every row's hidden state: that of
    its largest number. With one scale for the batch, as onnxruntime's own dynamic quantisation has
    it, a row's numbers would depend on its neighbours.
    """

    def __init__(self) -> None:
        super().__init__()
        self._least = self.constant(torch.tensor(LEAST))
        self._scale = self.constant(torch.tensor(1 / STATE_LEVELS))
        self._zero = self.constant(torch.tensor(STATE_LEVELS + 1, dtype=torch.uint8))
        self._weight_zero = self.constant(torch.tensor(0, dtype=torch.int8))
        self._rounded: dict[str, tuple[str, str]] = {}

    def read_hidden(self, h: str, weight: Tensor, added: str | Tensor) -> str:
        if isinstance(added, Tensor):
            added = self.constant(added)
        read, largest = self._read(h)
        rounded, scales = quantized(weight)
        operands = [read, self.constant(rounded.T), self._scale, self.constant(scales)]
        operands += [self._zero, self._weight_zero]
        product = self("MatMulIntegerToFloat", *operands, domain=MICROSOFT)  # [B, G H]
        return self("Add", self("Mul", product, largest), added)

    def _read(self, h: str) -> tuple[str, str]:
        """Hidden states [B, H] as whole numbers, and what they were divided by [B, 1]."""
        if h not in self._rounded:
            axis = self.constant([1])
            largest = self("Max", self("ReduceMax", self("Abs", h), axis), self._least)
            share = self("Div", h, largest)  # -1..1
            whole = self("QuantizeLinear", share, self._scale, self._zero)
            self._rounded[h] = whole, largest
        return self._rounded[h]


def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [G H, H] as int8 and a scale [G H] for every unit: nearly int8 x scale."""
    scales = (weight.detach().abs().amax(1) / LEVELS).clamp_min(LEAST)  # [G H]
    return (weight.detach() / scales[:, None]).round().to(torch.int8), scales


class Int8(OfArrays):
    """A quarter of the weights to read, for an error of up to a hundredth of the outputs: see
    `carousel.model.precision`. Products over features and the head stay in float32. Chunks and
    sequences run step by step, so that any cut gives the same numbers.
    """

    name = "int8"

    def __init__(self, network: Network, device: str = "cpu", *, threads: int = 1) -> None:
        self.device = torch.device(device)
        check_int8(network.config, device)
        self.network = network
        with torch.no_grad():
            self._step = open_session(step_graph(network, Int8Graph()), threads, arena=True)

    def step_arrays(self, x: Array, rows: Array) -> tuple[Array, Array]:
        return run_session(self._step, {"x": x, "rows": rows})

    @torch.no_grad()
    def chunk(self, x: Tensor, lengths: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return chunk_by_steps(self.step, x, lengths, rows, self.network.config.output_size)

    def sequences(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.chunk(x, lengths, self.network.initial_rows(len(x)))[0]


def check_int8(config: ModelConfig, device: str) -> None:
    """Raises ConfigError where there is no CPU, or no next step."""
    if config.bidirectional:
        raise ConfigError("precision int8 is for models with a next step, got a bidirectional one")
    if torch.device(device).type != "cpu":
        raise ConfigError(f"precision int8 runs on cpu, got {device}")
