"""The heap of the C library: free memory is given back to the system once there is much of it."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
from pathlib import Path

SECONDS = 5.0  # between two looks
MUCH = 64 * 1024**2  # bytes more than at the least, since they were last given back
STATM = Path("/proc/self/statm")


class _Info(ctypes.Structure):
    """mallinfo2 of glibc. Its `free` would count what was given back before, too."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "o", "s", "h", "mapped", "u", "f", "used", "f2", "top")
    ]


class Heap:
    """glibc keeps what many threads have freed: after 10,000 connections, twice what is in use.

    To give it back takes some 30 ms, in which whoever asks for memory may wait; so it is done
    seldom. Where the C library is another one, nothing is.
    """

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        try:
            self._info, self._trim = library.mallinfo2, library.malloc_trim
        except AttributeError:
            self._least: int | None = None
            return
        self._info.restype = _Info
        self._least = self._idle()

    async def watch(self) -> None:
        """Look at it for ever."""
        while True:
            await asyncio.sleep(SECONDS)
            await asyncio.to_thread(self.sweep)

    def sweep(self) -> bool:
        """Give free memory back where there is much; whether there was. Call it in a thread."""
        if self._least is None:
            return False
        idle = self._idle()
        much = idle > self._least + MUCH
        if much:
            self._trim(0)
            idle = self._idle()
        self._least = idle if much else min(self._least, idle)
        return much

    def _idle(self) -> int:
        """Bytes that the process holds and the heap has not given out, but for a constant."""
        info = self._info()
        idle: int = held() - info.used - info.mapped
        return idle


def held() -> int:
    """Bytes of memory that this process holds and that are no file's; on Linux alone."""
    resident, files = STATM.read_text().split()[1:3]
    return (int(resident) - int(files)) * mmap.PAGESIZE
