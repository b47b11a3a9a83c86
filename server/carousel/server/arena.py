"""The arena: all rows of one model version on one device, read, written, copied and zeroed."""

from __future__ import annotations

import numpy as np
import torch

from carousel.errors import SessionCapacity
from carousel.server.work import Floats, Ints

FIRST_CAPACITY = 64

Rows = Floats | torch.Tensor
"""States [n, width]: on a CPU an array, without a tensor around it, else a tensor there."""


class Arena:
    """Rows of `width` float32 numbers, given out and taken back.

    It begins with `first` rows and grows by doubling up to `limit`; to grow is to copy them all
    while everybody waits. On a CPU a row takes memory only once it has been given out.

    A row is zero at first, and zeroed when it comes back and when it is given out again, so that
    no session ever sees what another left.
    """

    def __init__(
        self, width: int, *, limit: int, first: int = FIRST_CAPACITY, device: str = "cpu"
    ) -> None:
        self.width = width
        self.limit = limit
        self.device = torch.device(device)
        self._rows = self._zeros(min(first, limit))
        self._host = self._view()
        self._fresh = 0  # the first row that was never given out; none above it was
        self._free = np.empty(len(self._rows), np.int64)  # rows that came back
        self._free_count = 0

    @property
    def capacity(self) -> int:
        """Rows that exist by now."""
        return len(self._rows)

    @property
    def used(self) -> int:
        """Rows that are given out."""
        return self._fresh - self._free_count

    @property
    def room(self) -> int:
        """Rows that can still be given out."""
        return self.limit - self.used

    @property
    def row_bytes(self) -> int:
        return self.width * self._rows.element_size()

    def allocate(self, count: int) -> Ints:
        """Give out `count` zeroed rows, or none: raises SessionCapacity."""
        self.check_room(count)
        if self.used + count > self.capacity:
            self._grow(self.used + count)
        back = min(count, self._free_count)
        fresh = self._fresh + count - back
        self._free_count -= back
        again = self._free[self._free_count : self._free_count + back][::-1]
        rows = np.concatenate([again, np.arange(self._fresh, fresh)])
        self._fresh = fresh
        self.zero(rows[:back])  # the others were never anything else
        return rows

    def check_room(self, count: int) -> None:
        """Raises SessionCapacity when `count` more rows do not fit in."""
        if self.used + count > self.limit:
            raise SessionCapacity(
                f"the arena holds at most {self.limit} rows, {self.used} are in use, "
                f"{count} more were asked for",
                field="model",
                retry_after=1.0,
            )

    def release(self, rows: Ints) -> None:
        """Take rows back."""
        self.zero(rows)
        self._free[self._free_count : self._free_count + len(rows)] = rows
        self._free_count += len(rows)

    def take(self, rows: Ints) -> Rows:
        """Copies of these rows."""
        if self._host is not None:
            return self._host.take(rows, 0)
        return self._rows.index_select(0, self._index(rows))

    def read(self, rows: Ints) -> torch.Tensor:
        """Copies of these rows, as a tensor in any case."""
        return torch.as_tensor(self.take(rows))

    def gather(self, index: torch.Tensor, out: torch.Tensor) -> None:
        """Copy rows whose numbers are on the device into `out` [n, width], there too."""
        torch.index_select(self._rows, 0, index, out=out)

    def write(self, rows: Ints, values: Rows) -> None:
        """Put values [n, width] into these rows, each named once."""
        if self._host is not None:
            self._host[rows] = values
        else:
            self.scatter(self._index(rows), torch.as_tensor(values).to(self.device))

    def scatter(self, index: torch.Tensor, values: torch.Tensor) -> None:
        """As `write`, of rows whose numbers are on the device, as the values are."""
        self._rows.index_copy_(0, index, values)

    def copy(self, row: int, rows: Ints) -> None:
        """Copy one row into others."""
        if self._host is not None:
            self._host[rows] = self._host[row]
        else:
            one = self._rows[row].clone()
            self._rows.index_copy_(0, self._index(rows), one.expand(len(rows), -1))

    def zero(self, rows: Ints) -> None:
        self._rows.index_fill_(0, self._index(rows), 0.0)

    def _index(self, rows: Ints) -> torch.Tensor:
        index = torch.from_numpy(rows)
        return index if self._host is not None else index.to(self.device, non_blocking=True)

    def _view(self) -> Floats | None:
        """The same memory for numpy, which on a CPU moves rows several times faster than torch.

        It also keeps the interpreter's lock while it moves a few, so that a turn of a few riders
        need not win it back from a busy event loop.
        """
        return self._rows.numpy() if self.device.type == "cpu" else None

    def _grow(self, wanted: int) -> None:
        """Double as often as it takes, at once."""
        old = self.capacity
        new = min(old << ((wanted - 1) // old).bit_length(), self.limit)
        rows = self._zeros(new)
        rows[:old] = self._rows
        self._rows = rows
        self._host = self._view()
        self._free = np.concatenate([self._free, np.empty(new - old, np.int64)])

    def _zeros(self, count: int) -> torch.Tensor:
        """On a CPU the system gives zeroed memory when it is first touched: torch touches it."""
        if self.device.type == "cpu":
            return torch.from_numpy(np.zeros((count, self.width), np.float32))
        return torch.zeros((count, self.width), device=self.device)
