"""The heap of the C library: free memory is given back to the system once there is much of it."""

from __future__ import annotations

import asyncio
import ctypes

SECONDS = 5.0  # between two looks
MUCH = 64 * 1024**2  # bytes more than there were at the least, since they were last given back


class _Info(ctypes.Structure):
    """mallinfo2 of glibc; `free` counts what was given back, and not used again, too."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "o", "s", "h", "mapped", "u", "f", "used", "free", "top")
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
        self._least = self._free()

    async def watch(self) -> None:
        """Look at it for ever."""
        while True:
            await asyncio.sleep(SECONDS)
            await asyncio.to_thread(self.sweep)

    def sweep(self) -> bool:
        """Give free memory back where there is much; whether there was. Call it in a thread."""
        if self._least is None:
            return False
        free = self._free()
        much = free > self._least + MUCH
        if much:
            self._trim(0)
        self._least = free if much else min(self._least, free)
        return much

    def _free(self) -> int:
        found: int = self._info().free
        return found
