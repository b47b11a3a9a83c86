"""Slices: how long a thread of the server may make another wait, for Python and for a processor."""

from __future__ import annotations

import ctypes
import os
import platform
import sys

# Of the interpreter's lock. The engine needs a moment of Python every few milliseconds; with the
# default of 5 ms a busy event loop would stretch its turns.
SWITCH_SECONDS = 0.0005
# Of a processor: who wakes waits for the slice of whoever runs, some milliseconds, unless its own
# is shorter. The store, a job or a neighbour would hold up a step several times.
SLICE_NANOSECONDS = 500_000
USUAL = 0

_LIBC = ctypes.CDLL(None)
# The numbers of sched_setattr and sched_getattr; there is no system call -1.
_SET, _GET = {"linux x86_64": (314, 315), "linux aarch64": (274, 275)}.get(
    f"{sys.platform} {platform.machine()}", (-1, -1)
)


class _Attributes(ctypes.Structure):
    """`struct sched_attr` of Linux; the slice of usual threads is its `runtime` (from 6.12 on)."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def take_turns_quickly() -> None:
    """From now on, for this thread and those that it starts, where the system can."""
    sys.setswitchinterval(SWITCH_SECONDS)
    set_slice(SLICE_NANOSECONDS)


def set_slice(nanoseconds: int, *, thread: int = 0) -> None:
    """Of a thread by its id, 0 for the one that asks; what can't be set stays as it is."""
    found = _attributes(thread)
    if found is not None and found.policy in (os.SCHED_OTHER, os.SCHED_BATCH):
        found.runtime = nanoseconds
        _LIBC.syscall(_SET, thread, ctypes.byref(found), 0)


def slice_of(thread: int) -> int:
    """In nanoseconds; 0 where the system does not say."""
    found = _attributes(thread)
    return 0 if found is None else found.runtime


def _attributes(thread: int) -> _Attributes | None:
    found = _Attributes()
    failed = _LIBC.syscall(_GET, thread, ctypes.byref(found), ctypes.sizeof(found), 0)
    return None if failed else found
