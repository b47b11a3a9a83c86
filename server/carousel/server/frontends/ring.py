"""A ring: bytes from one process to another through memory that both have."""

from __future__ import annotations


class RingWriter:
    """Writes where the reader has read already. `consumed` is what the reader last told of."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self.written = 0  # bytes, ever
        self.consumed = 0

    def write(self, data: memoryview) -> int:
        """How much of it there was room for."""
        size = len(self._memory)
        count = min(len(data), size - (self.written - self.consumed))
        begin = self.written % size
        first = min(count, size - begin)
        self._memory[begin : begin + first] = data[:first]
        self._memory[: count - first] = data[first:count]
        self.written += count
        return count


class RingReader:
    """Reads what the writer told that it has written."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self.consumed = 0  # bytes, ever

    def read(self, written: int) -> bytes:
        """All up to there."""
        size = len(self._memory)
        begin, count = self.consumed % size, written - self.consumed
        first = min(count, size - begin)
        self.consumed = written
        data = bytes(self._memory[begin : begin + first])
        return data if first == count else data + bytes(self._memory[: count - first])
