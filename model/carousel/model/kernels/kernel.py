"""What every kernel offers, and the slow but general way to run a chunk: step by step."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy.typing as npt
import torch
from torch import Tensor

from carousel.model.errors import ConfigError
from carousel.model.network import Network

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Array = npt.NDArray[Any]


class Kernel(Protocol):
    """One way to run a network fast; the numbers are those of `Network.forward`.

    Shapes: B batch, T time, D input, O output. x is float32 features, or int64 tokens without D,
    each below the vocabulary: the caller has checked them. Results never share memory with the
    arguments.
    """

    name: str
    device: torch.device

    def step(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, D] or [B], rows [B, width] -> y [B, O] and the new rows [B, width]."""
        ...

    def step_arrays(self, x: Array, rows: Array) -> tuple[Array, Array]:
        """The same on a CPU: a step of one row is so short that tensors are a sixth of it."""
        ...

    def chunk(self, x: Tensor, lengths: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, T, D] or [B, T], lengths [B] (1..T) -> y [B, T, O], the new rows [B, width].

        Outputs from a row's length on are zero; its new row is the state after its last step.
        """
        ...

    def sequences(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Whole sequences from the initial state, as in `chunk` -> y [B, T, O]."""
        ...


class OfTensors:
    """Of a kernel that computes in torch: steps of arrays."""

    def step(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def step_arrays(self, x: Array, rows: Array) -> tuple[Array, Array]:
        y, new = self.step(torch.from_numpy(x), torch.from_numpy(rows))
        return y.numpy(), new.numpy()


class OfArrays:
    """Of a kernel that computes on arrays: steps of tensors."""

    def step_arrays(self, x: Array, rows: Array) -> tuple[Array, Array]:
        raise NotImplementedError

    def step(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        y, new = self.step_arrays(x.numpy(), rows.numpy())
        return torch.from_numpy(y), torch.from_numpy(new)


def forward_only(network: Network) -> None:
    """Refuse to carry the state of a network that also reads backward."""
    if network.config.bidirectional:
        raise ConfigError("a bidirectional model runs whole sequences only: it has no next step")


def chunk_by_steps(
    step: Step, x: Tensor, lengths: Tensor, rows: Tensor, output_size: int
) -> tuple[Tensor, Tensor]:
    """Run a chunk with a step function; rows whose chunk is over leave the batch.

    How many ride each step is known on the CPU, so that no device is waited for.
    """
    lengths = lengths.cpu()
    order = torch.argsort(lengths, descending=True).to(x.device)
    x, rows = x[order], rows[order].clone()
    y = torch.zeros(*x.shape[:2], output_size, dtype=rows.dtype, device=rows.device)
    # riding[t] rows still have a step t; sorted, they are the first ones.
    riding = (lengths[:, None] > torch.arange(x.shape[1])).sum(0).tolist()
    for t, n in enumerate(riding):
        if n:
            y[:n, t], rows[:n] = step(x[:n, t], rows[:n])
    back = torch.argsort(order)
    return y[back], rows[back]
