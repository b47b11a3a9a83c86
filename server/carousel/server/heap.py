"""The heap of the C library: free memory is given back to the system once there is much of it."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
from pathlib import Path

SECONDS = 5.0  # between two looks
MUCH = 64 * 1024**2  # bytes that are free, and bytes more that are held than at the least before
STATM = Path("/proc/self/statm")


class _Info(ctypes.Structure):
    """mallinfo2 of glibc; `free` counts what was given back, and not used again, too."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "o", "s", "h", "mapped", "u", "f", "used", "free", "top")
    ]


class Heap:
    """glibc keeps what many threads have freed: after 10,000 connections, twice what is in use.

    To give it back takes some 30 ms, in which whoever asks for memory may wait; so it is done
    seldom. What is free counts what was given back before, what the process holds does not. Where
    the C library is another one, nothing is done.
    """

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        try:
            self._info, self._trim = library.mallinfo2, library.malloc_trim
            self._least: int | None = held()
        except (AttributeError, OSError):
            self._least = None
            return
        self._info.restype = _Info

    async def watch(self) -> None:
        """Look at it for ever."""
        while True:
            await asyncio.sleep(SECONDS)
            await asyncio.to_thread(self.sweep)

    def sweep(self) -> bool:
        """Give free memory back where there is much; whether there was. Call it in a thread."""
        if self._least is None:
            return False
        much = self._free() > MUCH and held() > self._least + MUCH
        if much:
            self._trim(0)
        self._least = held() if much else min(self._least, held())
        return much

    def _free(self) -> int:
        found: int = self._info().free
        return found


def held() -> int:
    """Bytes of memory that this process holds and that are no file's. Raises OSError."""
    resident, files = STATM.read_text().split()[1:3]
    return (int(resident) - int(files)) * mmap.PAGESIZE
