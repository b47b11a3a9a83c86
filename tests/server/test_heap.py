"""Free memory goes back to the system once there is much of it, and not before."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys

import numpy as np
import pytest

from carousel.server.heap import MUCH, Heap
from tests.processes import PATIENCE
from tests.soak.hostile import MIB, own_mib

PIECE = 64 * 1024  # which glibc takes from the heap, unlike large ones

TOUCHED = MUCH + MUCH // 8  # of an array, between two looks
TOUCH_LATE = f"""
import numpy as np
from carousel.server.heap import Heap

heap = Heap()
array = np.zeros((4, {TOUCHED}), np.uint8)
for part in array:
    part[:] = 1
    assert not heap.sweep()
"""

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the heap of glibc"),
    pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="another C library"),
]


def held(size: int) -> list[int]:
    """Addresses of memory that is in use."""
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    addresses = [library.malloc(PIECE) for _ in range(size // PIECE)]
    for address in addresses:
        ctypes.memset(address, 1, PIECE)
    return addresses


def mapped(size: int) -> mmap.mmap:
    """Memory in use that is none of the heap's."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    np.frombuffer(memory, np.uint8)[:] = 1
    return memory


def free(addresses: list[int]) -> None:
    library = ctypes.CDLL(None)
    for address in addresses:
        library.free(ctypes.c_void_p(address))


def test_much_free_memory_is_given_back_once() -> None:
    heap = Heap()
    *many, last = held(4 * MUCH)  # the last one keeps the heap from shrinking by itself
    heap.sweep()
    before = own_mib(os.getpid())
    free(many)
    assert heap.sweep()
    assert before - own_mib(os.getpid()) > 2 * MUCH // 1024 // MIB
    assert not heap.sweep()
    free([last])


def test_what_is_taken_and_freed_again_between_two_looks_is_given_back_too() -> None:
    heap = Heap()
    for _ in range(3):
        *many, last = held(4 * MUCH)
        assert not heap.sweep()  # all of it is in use
        free(many)
        assert heap.sweep()
        many = held(4 * MUCH)  # of what was given back
        free(many)
        assert heap.sweep()
        free([last])


def test_what_is_touched_long_after_it_was_given_out_is_not_taken_for_free() -> None:
    subprocess.run([sys.executable, "-c", TOUCH_LATE], check=True, timeout=PATIENCE)


def test_where_it_was_in_vain_the_next_looks_are_passed_over() -> None:
    heap = Heap()
    *many, last = held(4 * MUCH)
    free(many)
    assert heap.sweep()  # from now on much is free, of which nothing is held
    tried, kept = [], []
    for _ in range(4):
        kept.append(mapped(TOUCHED))
        tried.append(heap.sweep())
    assert tried == [True, False, True, False]
    free(held(4 * MUCH))
    before = own_mib(os.getpid())
    assert [heap.sweep() for _ in range(3)] == [False, False, True]
    assert before - own_mib(os.getpid()) > 2 * MUCH // 1024 // MIB
    free(held(4 * MUCH))
    assert heap.sweep()  # as before: the last one was not in vain
    free([last])
