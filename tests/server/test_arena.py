"""The arena: rows read, written, copied and zeroed."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from carousel.errors import SessionCapacity
from carousel.server.arena import FIRST_CAPACITY, Arena


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_rows_keep_their_values_while_the_arena_grows() -> None:
    arena = Arena(3, limit=1000)
    first = arena.allocate(10)
    values = torch.randn(10, 3)
    arena.write(first, values)
    more = arena.allocate(500)
    assert arena.capacity == 512
    assert torch.equal(arena.read(first), values)
    assert len({*first.tolist(), *more.tolist()}) == 510


def test_rows_that_were_there_from_the_first_are_never_moved() -> None:
    arena = Arena(3, limit=1000, first=600)
    arena.allocate(600)
    assert arena.capacity == 600
    arena.allocate(1)
    assert arena.capacity == 1000


def test_rows_take_memory_only_once_they_are_given_out() -> None:
    before = resident_bytes()
    arena = Arena(1024, limit=2**16, first=2**16)  # 256 MiB
    assert resident_bytes() - before < 2**26
    arena.write(arena.allocate(2), torch.ones(2, 1024))
    assert resident_bytes() - before < 2**26


def test_a_row_is_zero_when_given_out_and_when_it_comes_back() -> None:
    arena = Arena(4, limit=8)
    rows = arena.allocate(8)
    arena.write(rows, torch.full((8, 4), 7.0))
    arena.release(rows[:5])
    assert not arena.read(rows[:5]).any()
    again = arena.allocate(5)
    assert set(again.tolist()) == set(rows[:5].tolist())
    assert not arena.read(again).any()
    assert (arena.read(rows[5:]) == 7.0).all()


def test_allocation_is_all_or_nothing_at_the_limit() -> None:
    arena = Arena(2, limit=FIRST_CAPACITY + 6)
    arena.allocate(FIRST_CAPACITY)
    with pytest.raises(SessionCapacity, match="at most 70 rows, 64 are in use, 7 more"):
        arena.allocate(7)
    assert arena.used == FIRST_CAPACITY
    assert len(arena.allocate(6)) == 6


@pytest.mark.parametrize("copies", [1, 2, 20])
def test_copy_writes_one_row_into_one_or_many(copies: int) -> None:
    arena = Arena(5, limit=100)
    source, *others = arena.allocate(copies + 1)
    arena.write(np.array([source]), torch.arange(5.0)[None])
    arena.copy(int(source), np.array(others))
    assert torch.equal(arena.read(np.array(others)), torch.arange(5.0).expand(copies, 5))
