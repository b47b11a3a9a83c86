"""Which sessions are copied for the store next: each once, SYNC first, and not too much at once."""

from __future__ import annotations

import numpy as np
import pytest

from carousel.server.moved import Moved, Portion
from carousel.server.table import ASYNC, MEMORY, NO_ROW, SYNC, SessionTable
from carousel.server.work import Ints


def portion(sessions: int, reply_bytes: int = 2**40) -> Portion:
    return Portion(sessions, reply_bytes, rest=1.0)


@pytest.fixture
def table() -> SessionTable:
    return SessionTable()


def sessions(table: SessionTable, count: int, durability: int = ASYNC) -> Ints:
    begin = len(table)
    slots = [
        table.insert(
            f"s{begin + place}",
            version=0,
            row=place,
            ttl=60.0,
            lifetime=60.0,
            now=0.0,
            durability=durability,
        )
        for place in range(count)
    ]
    return np.array(slots)


def test_each_is_taken_once_in_the_order_in_which_they_came(table: SessionTable) -> None:
    slots, moved = sessions(table, 9), Moved(table)
    moved.add(slots[:4], 0.0)
    moved.add(slots[2:8], 0.0)
    assert moved.take(portion(3)).tolist() == slots[:3].tolist()
    assert table.touched[slots].tolist() == [False] * 3 + [True] * 5 + [False]
    moved.add(slots[:1], 0.0)  # it moved again meanwhile
    assert moved.take(portion(100)).tolist() == [*slots[3:8].tolist(), int(slots[0])]
    assert not moved
    assert moved.take(portion(100)).tolist() == []
    assert not table.touched[slots].any()


def test_those_that_somebody_waits_for_come_first(table: SessionTable) -> None:
    later, first, moved = sessions(table, 5), sessions(table, 2, SYNC), Moved(table)
    moved.add(later, 0.0)
    moved.add(first, 0.0)
    assert moved.take(portion(3)).tolist() == [*first.tolist(), int(later[0])]
    assert moved.take(portion(9)).tolist() == later[1:].tolist()


def test_who_left_the_arena_or_is_not_durable_is_passed_over(table: SessionTable) -> None:
    slots, moved = sessions(table, 4), Moved(table)
    moved.add(slots, 0.0)
    table.row[slots[0]] = NO_ROW
    table.durability[slots[1]] = MEMORY
    table.remove(int(slots[2]), None)
    assert moved.take(portion(1)).tolist() == [int(slots[3])]
    assert not moved
    assert not table.touched[slots].any()


def test_no_more_are_taken_once_their_replies_are_long(table: SessionTable) -> None:
    slots, moved = sessions(table, 10), Moved(table)
    reply = np.zeros((64, 64), np.float32)
    for slot in slots[2:].tolist():
        table.chunk_replies.put(slot, reply)
    moved.add(slots[:5], 0.0)
    moved.add(slots[5:], 0.0)
    assert moved.take(portion(32, 4 * reply.nbytes)).tolist() == slots[:6].tolist()
    assert moved.take(portion(32, 1)).tolist() == slots[6:7].tolist(), "one in any case"
    assert moved.take(portion(2, 4 * reply.nbytes)).tolist() == slots[7:9].tolist()
    assert table.touched[slots].tolist() == [False] * 9 + [True]


def test_what_is_forgotten_can_be_touched_again(table: SessionTable) -> None:
    slots, moved = sessions(table, 3), Moved(table)
    moved.add(slots, 0.0)
    moved.clear()
    assert not moved
    moved.add(slots, 0.0)
    assert moved.take(portion(9)).tolist() == slots.tolist()


def test_the_oldest_that_waits_says_how_long(table: SessionTable) -> None:
    slots, moved = sessions(table, 6), Moved(table)
    assert moved.age(10.0) == 0.0
    moved.add(slots[:4], 10.0)
    moved.add(slots, 13.0)
    assert moved.age(15.0) == 5.0
    moved.take(portion(3))
    assert moved.age(15.0) == 5.0, "one of the first still waits"
    moved.take(portion(1))
    assert moved.age(15.0) == 2.0
