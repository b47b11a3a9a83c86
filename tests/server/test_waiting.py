"""Waiting: of outputs that wait for the store, those whose sessions are gone go as errors."""

from __future__ import annotations

import numpy as np
import pytest

from carousel.server.departed import Ended
from carousel.server.groups import Held
from carousel.server.table import SYNC, SessionTable
from carousel.server.waiting import Waiting
from carousel.server.work import Answer, Ints, Work

COUNT = 12


class World:
    """A message of sessions whose outputs are held back, and what goes out."""

    def __init__(self) -> None:
        self.out: list[Answer] = []
        self.failed: list[str] = []
        self.table = SessionTable()
        self.waiting = Waiting(self.table, self.out.append, failed=self._count)
        self.slots = np.array([self._insert(f"s{number}") for number in range(COUNT)])
        handles = self.table.handle[self.slots].tolist()
        self.outputs = np.arange(2.0 * COUNT, dtype=np.float32).reshape(COUNT, 2)
        work = Work(handles, [0] * COUNT, self.outputs, self.out.append)
        self.table.next_index[self.slots] = 1
        items = np.arange(COUNT)
        self.waiting.hold(Answer(work, items, None, self.outputs, slots=self.slots), self.slots)

    def _count(self, held: Held, errors: object) -> None:
        assert isinstance(errors, list)
        assert len(errors) == len(held.slots)
        self.failed += [error.reason for error in errors]

    def _insert(self, session_id: str) -> int:
        return self.table.insert(
            session_id, version=1, row=0, ttl=60.0, lifetime=60.0, now=0.0, durability=SYNC
        )

    def end(self, items: Ints) -> None:
        """Those of odd numbers went on elsewhere."""
        for item in items.tolist():
            over = Ended(f"s{item}", "m/1", 1, "CLOSED", 1, 0.0, 0.0)
            self.table.remove(int(self.slots[item]), None if item % 2 else over)

    def store(self) -> bool:
        """All that is here."""
        self.table.durable_index[self.slots] = 1
        return self.waiting.release({}, set())


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("gone", [range(COUNT), range(0, COUNT, 3), [COUNT - 1]])
def test_all_that_is_gone_is_told_at_once_and_each_why(world: World, gone: list[int]) -> None:
    world.end(np.array(gone))
    assert not world.store()
    errors, *rest = world.out
    wanted = ["SESSION_FENCED" if item % 2 else "SESSION_ENDED" for item in gone]
    assert [(item, error.reason) for item, error in errors.errors] == list(
        zip(gone, wanted, strict=True)
    )
    assert world.failed == wanted
    stay = np.setdiff1d(np.arange(COUNT), gone)
    assert [answer.items.tolist() for answer in rest] == ([stay.tolist()] if len(stay) else [])
    for answer in rest:
        np.testing.assert_array_equal(answer.outputs, world.outputs[stay])
        assert answer.durable is not None
        assert answer.durable.tolist() == [1] * len(stay)


def test_what_stays_waits_until_it_is_stored(world: World) -> None:
    world.end(np.array([0, 5]))
    assert world.waiting.release({}, set())
    assert [len(answer.errors) for answer in world.out] == [2]
    assert not world.store()
    assert [len(answer.items) for answer in world.out] == [0, COUNT - 2]
