"""What one row of recurrent state holds: named tensors at fixed places, never guessed."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from carousel.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a row: it lies at `offset` and takes `size` numbers, in row-major order."""

    name: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class StateSchema:
    """The tensors of one row, in order: `h` [L, H] and, for the LSTM, `c` [L, H]."""

    tensors: tuple[TensorSpec, ...]

    @classmethod
    def of(cls, config: ModelConfig) -> "StateSchema":
        """The schema of a model; a bidirectional one has 2 L layers, forward before backward."""
        sizes = {"h": config.state_size}
        if config.cell == "lstm":
            sizes["c"] = config.hidden_size
        depth, offset, tensors = config.layers * config.directions, 0, []
        for name, size in sizes.items():
            tensors.append(TensorSpec(name, (depth, size), offset, depth * size))
            offset += depth * size
        return cls(tuple(tensors))

    def __str__(self) -> str:
        """As people read it: `h [2, 64] and c [2, 64]`."""
        return " and ".join(f"{spec.name} {list(spec.shape)}" for spec in self.tensors)

    @property
    def width(self) -> int:
        """float32 numbers in one row."""
        return sum(spec.size for spec in self.tensors)

    def split(self, rows: Tensor) -> dict[str, Tensor]:
        """The named tensors [B, *shape] of rows [B, width], as views."""
        return {
            spec.name: rows[:, spec.offset : spec.offset + spec.size].view(len(rows), *spec.shape)
            for spec in self.tensors
        }

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The rows [B, width] of named tensors [B, *shape]."""
        return torch.cat([tensors[spec.name].flatten(1) for spec in self.tensors], dim=1)
