"""The accelerator: turns of single steps on a GPU, one under way while the last is answered.

On a CPU a turn is computed when the call returns, and needs nothing of this. On a GPU it is one
copy up, a gather, a captured step and one copy down, all launched without waiting for any.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import torch

from carousel.model import Kernel
from carousel.model.kernels.device import Device
from carousel.server.arena import Arena
from carousel.server.buckets import Bucket, bucket_sizes
from carousel.server.work import Inputs, Ints

AT_ONCE = 2  # turns that are launched and not over


@dataclass(slots=True)
class Landed:
    """What a turn came to, [B, ...]; but for the outputs on the device, and good until `release`.

    `good` [B] is None when all rows are finite.
    """

    state: torch.Tensor
    outputs: torch.Tensor
    new: torch.Tensor
    index: torch.Tensor  # the rows' numbers
    good: torch.Tensor | None


@dataclass(slots=True)
class Launched:
    """A turn under way."""

    bucket: Bucket
    batch: int
    results: torch.Tensor  # held, since a copy reads it
    new: torch.Tensor
    index: torch.Tensor
    wait: Callable[[], object]

    def land(self) -> Landed:
        """Wait for it."""
        self.wait()
        bucket, batch = self.bucket, self.batch
        values = bucket.received[bucket.size :].view(bucket.size, -1)
        # A copy, since the answers may be written when the bucket is lent again.
        outputs = values[:batch].clone()
        good = None
        # The sum of large numbers may be infinite too: then each is looked at.
        if not bool(torch.isfinite(bucket.received[:batch]).all()):
            good = torch.isfinite(self.new[:batch]).all(1).cpu() & torch.isfinite(outputs).all(1)
        return Landed(bucket.rows[:batch], outputs, self.new[:batch], self.index[:batch], good)

    def release(self) -> None:
        """Give the bucket back; what it held is no longer needed."""
        self.bucket.lent = False


class Accelerator:
    """The buckets of one version, AT_ONCE of every size, captured when this is made.

    Only the engine's thread may launch.
    """

    def __init__(
        self,
        device: Device,
        kernel: Kernel,
        arena: Arena,
        *,
        x: Inputs,
        outputs: int,
        max_batch: int,
    ) -> None:
        self._device, self._arena = device, arena
        self._sizes = bucket_sizes(max_batch)
        self._buckets = {
            size: [
                Bucket(device, kernel, size, x=x, width=arena.width, outputs=outputs)
                for _ in range(AT_ONCE)
            ]
            for size in self._sizes
        }

    def launch(self, inputs: Inputs, rows: Ints) -> Launched:
        """Step these rows of the arena; raises RuntimeError while AT_ONCE are not over."""
        bucket, batch = self._borrow(len(rows)), len(rows)
        try:
            bucket.fill(inputs, rows)
            self._device.upload(bucket.sent, bucket.came)
            self._arena.gather(bucket.index, bucket.rows)
            results, new, index = bucket.run()
            count = bucket.size + batch * bucket.outputs
            wait = self._device.download(results[:count], bucket.received[:count])
        except BaseException:
            bucket.lent = False
            raise
        return Launched(bucket, batch, results, new, index, wait)

    def _borrow(self, batch: int) -> Bucket:
        """A free bucket of the smallest size that holds a batch."""
        size = self._sizes[bisect_left(self._sizes, batch)]
        for bucket in self._buckets[size]:
            if not bucket.lent:
                bucket.lent = True
                return bucket
        raise RuntimeError(f"{AT_ONCE} turns of {size} rows are under way and none is over")
