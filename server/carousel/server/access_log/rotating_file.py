"""A file of lines that is rotated by size: FILE, FILE.1, FILE.2 and so on, the oldest last."""

from __future__ import annotations

import os
from pathlib import Path


class RotatingFile:
    """Readable for its owner alone. A line is whole or, where the disk was full, cut off and ended
    before the next. What others move away is opened anew under its name. Of one thread.
    """

    def __init__(self, path: Path, *, limit: int, keep: int) -> None:
        """`limit` is in bytes; `keep` is how many full files stay. Raises OSError."""
        self.path = path
        self._limit = limit
        self._keep = keep
        self._handle: int | None = None
        self._size = 0
        self._torn = False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    def write(self, lines: bytes) -> None:
        """Append whole lines. Raises OSError; what was written until then stays."""
        handle = self._current()
        if self._size and self._size + len(lines) > self._limit:
            handle = self._rotate()
        if self._torn:
            lines = b"\n" + lines
        left = memoryview(lines)
        while left:
            count = os.write(handle, left)
            self._size += count
            left = left[count:]
            self._torn = lines[len(lines) - len(left) - 1] != ord("\n")

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _current(self) -> int:
        """The file that stands under the name now."""
        if self._handle is not None:
            try:
                if os.path.samestat(os.fstat(self._handle), os.stat(self.path)):
                    return self._handle
            except FileNotFoundError:
                pass
            self.close()
        return self._open()

    def _open(self) -> int:
        handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._handle = handle
        self._size = os.fstat(handle).st_size
        # A server that was killed may have left half a line.
        self._torn = self._size > 0 and os.pread(handle, 1, self._size - 1) != b"\n"
        return handle

    def _rotate(self) -> int:
        self.close()
        for number in range(self._keep, 0, -1):
            older = self._numbered(number)
            newer = self._numbered(number - 1) if number > 1 else self.path
            if newer.exists():
                newer.replace(older)
        if not self._keep:
            self.path.unlink()
        return self._open()

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")
