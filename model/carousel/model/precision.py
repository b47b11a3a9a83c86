"""What a lower precision costs: the same steps in float32 and in it, side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from carousel.model.config import Softmax, Tokens
from carousel.model.errors import DataError
from carousel.model.kernels import StepPrecision, make_kernel
from carousel.model.network import Network


@dataclass(frozen=True, slots=True)
class Comparison:
    """`share` is `largest_difference` by the largest output. Bits are those that a model of tokens
    needs for each next one, NaN for any other model."""

    precision: StepPrecision
    steps: int
    largest_difference: float
    share: float
    bits_float32: float
    bits: float

    @property
    def more_bits(self) -> float:
        return self.bits - self.bits_float32


@torch.no_grad()
def compare(network: Network, x: Tensor, precision: StepPrecision = "int8") -> Comparison:
    """x [B, T, D] or [B, T], stepped from the initial state on; each precision carries its own, so
    that what differs adds up as it does in a session. Raises ConfigError."""
    exact = make_kernel(network)
    rough = make_kernel(network, precision=precision)
    batch, steps = x.shape[:2]
    rows, rough_rows = network.initial_rows(batch), network.initial_rows(batch)
    largest = output = 0.0
    bits = torch.zeros(2, dtype=torch.float64)
    for t in range(steps):
        y, rows = exact.step(x[:, t].contiguous(), rows)  # [B, O]
        z, rough_rows = rough.step(x[:, t].contiguous(), rough_rows)
        largest = max(largest, float((y - z).abs().max()))
        output = max(output, float(y.abs().max()))
        if _predicts(network) and t + 1 < steps:
            bits += torch.stack([cross_entropy(v.double(), x[:, t + 1]) for v in (y, z)])
    bits = bits / math.log(2) / (steps - 1) if _predicts(network) and steps > 1 else bits * math.nan
    share = largest / output if output else 0.0
    return Comparison(precision, batch * steps, largest, share, *bits.tolist())


def examples(network: Network, *, sessions: int, steps: int, text: str | None = None) -> Tensor:
    """What to compare over: places spread over a text, or random inputs. [B, T] or [B, T, D].

    Raises DataError for a text that the model can't read, or that is too short.
    """
    config, source = network.config, torch.Generator().manual_seed(0)
    if text is not None:
        if config.tokenizer is None:
            raise DataError("a text is for models that read text, this one does not")
        tokens = torch.tensor(config.tokenizer.encode(text))
        if len(tokens) < 2 * sessions:
            raise DataError(
                f"the text is cut into {sessions} parts of 2 tokens at least: it must have "
                f"{2 * sessions}, got {len(tokens)}"
            )
        length = len(tokens) // sessions
        return tokens[: sessions * length].view(sessions, length)[:, :steps]
    if isinstance(config.input, Tokens):
        return torch.randint(config.input.vocabulary, (sessions, steps), generator=source)
    x = torch.randn(sessions, steps, config.input_size, generator=source)
    return x * network.std + network.mean if config.normalization else x


def _predicts(network: Network) -> bool:
    """Whether it goes from tokens to a softmax over the same tokens."""
    match network.config.input, network.config.head:
        case Tokens(vocabulary=read), Softmax(vocabulary=told):
            return read == told
    return False
