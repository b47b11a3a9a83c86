"""The heap of the C library: free memory is given back to the system once there is much of it."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
from pathlib import Path

SECONDS = 5.0  # between two looks
MUCH = 64 * 1024**2  # bytes that are free, and bytes more that are idle than at the least before
MOST_PASSED = 63  # looks, which take five minutes
STATM = Path("/proc/self/statm")


class _Info(ctypes.Structure):
    """mallinfo2 of glibc. `used` and `mapped` count what was never touched, `free` also that and
    what was given back before."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "o", "s", "h", "mapped", "u", "f", "used", "free", "top")
    ]


class Heap:
    """glibc keeps what many threads have freed: after 10,000 connections, twice what is in use.

    To give it back takes some 30 ms, in which whoever asks for memory may wait; so it is done
    seldom. glibc does not say how much there is: no more than is free, and it is part of what is
    idle, that is, what the process holds and the heap has not given out. But what Python maps for
    itself is idle as well, and what was given out becomes so when it is touched late, as an arena
    is. So when nothing came of it, the next looks are passed over: one, three, seven. Where the C
    library is another one, nothing is done.
    """

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self._pause = self._passed = 0  # looks to pass over, and how many of them were
        try:
            self._info, self._trim = library.mallinfo2, library.malloc_trim
        except AttributeError:
            self._least: int | None = None
            return
        self._info.restype = _Info
        self._least = _idle(self._info())

    async def watch(self) -> None:
        """Look at it for ever."""
        while True:
            await asyncio.sleep(SECONDS)
            await asyncio.to_thread(self.sweep)

    def sweep(self) -> bool:
        """Give free memory back where there may be much; whether so. Call it in a thread."""
        if self._least is None:
            return False
        info = self._info()
        idle = _idle(info)
        if info.free <= MUCH or idle <= self._least + MUCH:
            self._least = min(self._least, idle)
            return False
        if self._passed < self._pause:
            self._passed += 1
            return False
        self._trim(0)
        self._least, self._passed = _idle(self._info()), 0
        in_vain = idle - self._least < MUCH // 2
        self._pause = min(2 * self._pause + 1, MOST_PASSED) if in_vain else 0
        return True


def _idle(info: _Info) -> int:
    """Bytes that the process holds and the heap has not given out."""
    idle: int = held() - info.used - info.mapped
    return idle


def held() -> int:
    """Bytes of memory that this process holds and that are no file's; on Linux alone."""
    resident, files = STATM.read_text().split()[1:3]
    return (int(resident) - int(files)) * mmap.PAGESIZE
