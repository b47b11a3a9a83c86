"""The same numbers to the last bit, whatever company: every step is computed at one batch size.

A product of another height may add in another order, which moves a float32 row by about 1e-7; at
one height every row is computed alike, wherever it stands and whoever its neighbours are.
"""

import torch
from torch import Tensor

from carousel.model.kernels.kernel import Kernel, OfTensors, chunk_by_steps


class Padded(OfTensors):
    """Another kernel whose steps run in groups of exactly `batch` rows, filled up with zeros.

    Chunks run step by step, so that any cut of a sequence gives the same bits too. Whole sequences
    are not padded: they have no session that could notice.
    """

    def __init__(self, kernel: Kernel, batch: int, output_size: int) -> None:
        self.name = f"{kernel.name}, padded to {batch}"
        self.device = kernel.device
        self._kernel = kernel
        self._batch = batch
        self._output_size = output_size

    def step(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        count, batch = len(x), self._batch
        outputs, new = [], []
        for begin in range(0, count, batch):
            part, state = (_filled(v[begin : begin + batch], batch) for v in (x, rows))
            y, after = self._kernel.step(part, state)
            outputs.append(y)
            new.append(after)
        if len(outputs) == 1:
            return outputs[0][:count], new[0][:count]
        return torch.cat(outputs)[:count], torch.cat(new)[:count]

    @torch.no_grad()
    def chunk(self, x: Tensor, lengths: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return chunk_by_steps(self.step, x, lengths, rows, self._output_size)

    def sequences(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self._kernel.sequences(x, lengths)


def _filled(values: Tensor, batch: int) -> Tensor:
    if len(values) == batch:
        return values
    filled = values.new_zeros((batch, *values.shape[1:]))
    filled[: len(values)] = values
    return filled
