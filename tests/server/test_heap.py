"""Free memory goes back to the system once there is much of it, and not before."""

from __future__ import annotations

import ctypes
import os
import sys

import pytest

from carousel.server.heap import MUCH, Heap
from tests.soak.hostile import MIB, own_mib

PIECE = 64 * 1024  # which glibc takes from the heap, unlike large ones

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the heap of glibc")


def held(size: int) -> list[int]:
    """Addresses of memory that is in use."""
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    addresses = [library.malloc(PIECE) for _ in range(size // PIECE)]
    for address in addresses:
        ctypes.memset(address, 1, PIECE)
    return addresses


def free(addresses: list[int]) -> None:
    library = ctypes.CDLL(None)
    for address in addresses:
        library.free(ctypes.c_void_p(address))


def test_much_free_memory_is_given_back_once() -> None:
    heap = Heap()
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("another C library")
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
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("another C library")
    for _ in range(3):
        *many, last = held(4 * MUCH)
        assert not heap.sweep()  # all of it is in use
        free(many)
        assert heap.sweep()
        many = held(4 * MUCH)  # of what was given back
        free(many)
        assert heap.sweep()
        free([last])
