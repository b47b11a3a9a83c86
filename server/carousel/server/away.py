"""Away: works whose sessions are parked wait until these are back, or until a turn made room."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from carousel.errors import CarouselError, SessionCapacity
from carousel.server.groups import Done
from carousel.server.loaded import LoadedVersion
from carousel.server.table import NO_ROW, SessionTable
from carousel.server.work import Ints, Work


class Residents(Protocol):
    """Brings parked sessions back into the arena."""

    def recall(
        self, slots: list[int], *, pinned: set[int]
    ) -> tuple[list[int], dict[int, CarouselError]]:
        """Those in memory, at once; gives those that the store has, and what failed by slot."""
        ...

    def want(self, slots: list[int], done: Done) -> None:
        """All of them; calls `done` when the last one is here, or with what failed."""
        ...


class Away:
    """Only the engine's thread may call it. `come_in` takes works, the last one first."""

    def __init__(
        self,
        table: SessionTable,
        come_in: Callable[[Iterable[tuple[LoadedVersion, Work]]], None],
    ) -> None:
        self.residents: Residents | None = None
        self._table = table
        self._come_in = come_in
        self._works: list[tuple[LoadedVersion, Work]] = []
        self._slots: set[int] = set()  # of their sessions
        self._crowded = False  # some wait for room

    def __len__(self) -> int:
        return len(self._works)

    def is_here(self, version: LoadedVersion, work: Work) -> bool:
        """Whether all sessions of a work are in the arena; else it waits until they are.

        Whatever comes for one of its sessions later waits behind it.
        """
        assert self.residents is not None
        slots, good = self._own(work)
        good[[item for item, _ in work.refusals]] = False
        mine = set(slots[good].tolist())
        if mine & self._slots:
            self._wait(version, work, mine)
            return False
        absent = [slot for slot in mine if self._table.row[slot] == NO_ROW]
        if absent:
            absent, failed = self.residents.recall(absent, pinned=mine)
            if _gets_room_later(version, failed):
                self._crowded = True
                self._wait(version, work, mine)
                return False
            self._refuse(work, failed)
        if not absent:
            return True
        self._wait(version, work, mine)
        self.residents.want(absent, lambda error: self._returned(work, absent, error))
        return False

    def make_room(self) -> None:
        """A round of turns is over: whoever waits for room tries again."""
        if self._crowded:
            self._try_again()

    def _wait(self, version: LoadedVersion, work: Work, slots: set[int]) -> None:
        self._works.append((version, work))
        self._slots |= slots

    def _own(self, work: Work) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """As slots_of: what a handle of somebody else's names is not brought back."""
        owner = self._table.owners.number(work.lane.tenant)
        return self._table.slots_of(np.array(work.handles, np.uint64), owner)

    def _refuse(self, work: Work, failed: dict[int, CarouselError]) -> None:
        """Items of sessions that can't come back are refused; the others of the work ride."""
        if failed:
            slots, good = self._own(work)
            refused = [
                (item, failed[slot])
                for item, slot in enumerate(slots.tolist())
                if good[item] and slot in failed
            ]
            work.refusals = [*work.refusals, *refused]

    def _returned(self, work: Work, slots: list[int], error: CarouselError | None) -> None:
        """Sessions that a work waits for are here, or can't come: all who wait try again."""
        if error is not None:
            gone = [slot for slot in slots if self._table.row[slot] == NO_ROW]
            self._refuse(work, dict.fromkeys(gone, error))
        self._try_again()

    def _try_again(self) -> None:
        self._crowded = False
        works, self._works = self._works, []
        self._slots.clear()
        self._come_in(reversed(works))


def _gets_room_later(version: LoadedVersion, failed: dict[int, CarouselError]) -> bool:
    """Whether the rows that are missing belong to sessions which wait for a turn."""
    full = any(isinstance(error, SessionCapacity) for error in failed.values())
    return full and len(version.scheduler) > 0
