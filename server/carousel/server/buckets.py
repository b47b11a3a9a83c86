"""Buckets: the few batch sizes for which a step is captured, each with buffers of its own."""

from __future__ import annotations

import numpy as np
import torch

from carousel.model import Kernel
from carousel.model.kernels.device import Device, Outputs
from carousel.server.work import Inputs, Ints

SMALLEST = 8  # the matrix units of a GPU take rows in eights


def bucket_sizes(largest: int) -> list[int]:
    """8, 16, 32, ... up to the largest batch, which is the last."""
    sizes, size = list[int](), SMALLEST
    while size < largest:
        sizes.append(size)
        size *= 2
    return [*sizes, largest]


class Bucket:
    """Static buffers for batches of up to `size` rows, and the captured step between them.

    What goes up is one piece of memory, so that it is one copy: the rows' numbers in the arena,
    then their inputs. So is what comes down: of each row a sum that is finite only if the row is,
    then the outputs. Rows that nobody rides are spare: row 0 steps there with zeros, and nobody
    looks. A bucket is `lent` to a turn until that is over, for what the turn gave lies in it.
    """

    def __init__(
        self, device: Device, kernel: Kernel, size: int, *, x: Inputs, width: int, outputs: int
    ) -> None:
        """`x` [1, ...] is an input as the model takes them."""
        self.size, self.outputs = size, outputs
        self.lent = False
        self._kernel = kernel
        # numpy lays it out, torch reads the same bytes on the device.
        first = size * np.dtype(np.int64).itemsize
        self.sent = device.pinned(first + size * x.nbytes, torch.uint8)
        self.came = torch.zeros_like(self.sent, device=device.device)
        self.received = device.pinned(size * (1 + outputs), torch.float32)
        shape = (size, *x.shape[1:])
        self._sent_index = self.sent.numpy()[:first].view(np.int64)
        self._sent_x = self.sent.numpy()[first:].view(x.dtype).reshape(shape)
        self.index = self.came[:first].view(torch.int64)
        self._x = self.came[first:].view(torch.from_numpy(x).dtype).view(shape)
        self.rows = torch.zeros(size, width, device=device.device)  # states, before
        self.run = device.capture(self._step)

    def fill(self, inputs: Inputs, rows: Ints) -> None:
        """Lay out what goes up."""
        batch = len(rows)
        self._sent_index[:batch], self._sent_index[batch:] = rows, 0
        self._sent_x[:batch], self._sent_x[batch:] = inputs, 0

    def _step(self) -> Outputs:
        """What comes down, the new states, and the rows' numbers.

        These are a copy, for the next batch's may come up while they are still needed.
        """
        y, new = self._kernel.step(self._x, self.rows)
        return torch.cat([new.sum(1) + y.sum(1), y.flatten()]), new, self.index.clone()
