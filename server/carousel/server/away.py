"""Away: items whose sessions are parked wait until these are back, or until a turn made room.

A message may step more sessions than the device has rows. Those that are there ride, and the rest
waits: it comes in, part by part, over those that have ridden. Nothing is decided for a message as
a whole, so no two messages can wait for rows that the other one keeps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from carousel.errors import Cancelled, CarouselError, DeadlineExceeded, SessionCapacity
from carousel.server.loaded import LoadedVersion
from carousel.server.table import NO_ROW, SessionTable
from carousel.server.work import Ints, Work

Failures = Mapping[int, CarouselError]  # by slot


class Residents(Protocol):
    """Brings parked sessions back into the arena."""

    def recall(self, slots: Sequence[int], *, pinned: set[int]) -> dict[int, CarouselError]:
        """Those in memory, at once and in order, until there is no room; gives what failed."""
        ...

    def want(self, slots: Sequence[int], done: Callable[[Failures], None]) -> None:
        """All of them; calls `done` when the last one is here, or failed."""
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
        self._has_waiting = np.zeros(0, np.bool_)  # by slot: an item of this session waits here
        self._crowded = False  # some wait for room

    def __len__(self) -> int:
        return len(self._works)

    def those_here(self, version: LoadedVersion, work: Work) -> Ints:
        """The items of a work that can be queued now; the others, `work.left`, wait here.

        Whatever comes for one of their sessions later waits behind them.
        """
        table = self._table
        left = np.arange(len(work)) if work.left is None else work.left
        slots, good = self._own(work)
        slots, good = slots[left], good[left]
        stays = good & self._waits_behind(slots)
        absent = good & ~stays & (table.row[slots] == NO_ROW)
        if absent.any():
            rest = self._bring(version, work, slots[good], slots[absent])
            stays |= absent & np.isin(slots, rest)
        work.left = left[stays]
        if len(work.left):
            self._works.append((version, work))
            self._has_waiting[slots[stays]] = True
        return left[~stays]

    def make_room(self) -> bool:
        """A round of turns is over: whoever waits for room tries again; whether anybody does."""
        crowded = self._crowded
        if crowded:
            self._try_again()
        return crowded

    def _own(self, work: Work) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """As slots_of: what a handle of somebody else's names is not brought back, nor is what is
        refused in any case."""
        owner = self._table.owners.number(work.lane.tenant)
        slots, good = self._table.slots_of(np.array(work.handles, np.uint64), owner)
        good[[item for item, _ in work.refusals]] = False
        return slots, good

    def _waits_behind(self, slots: Ints) -> npt.NDArray[np.bool_]:
        """Which of these sessions have items that came earlier and wait here."""
        if len(self._has_waiting) < len(self._table.handle):
            more = len(self._table.handle) - len(self._has_waiting)
            self._has_waiting = np.append(self._has_waiting, np.zeros(more, np.bool_))
        return self._has_waiting[slots]

    def _bring(self, version: LoadedVersion, work: Work, mine: Ints, absent: Ints) -> list[int]:
        """Bring back what there is room for; gives the sessions whose items have to wait."""
        assert self.residents is not None
        table = self._table
        slots = list(dict.fromkeys(absent.tolist()))
        if (why := _in_vain(version, work, len(absent))) is not None:
            self._refuse(work, dict.fromkeys(slots, why))
            return []
        failed = self.residents.recall(slots, pinned=set(mine.tolist()))
        if len(version.scheduler) or (table.row[mine] != NO_ROW).any():
            # Rows are free again when those have ridden who are here.
            roomy = {s: e for s, e in failed.items() if not isinstance(e, SessionCapacity)}
            self._crowded |= len(roomy) < len(failed)
            failed = roomy
        self._refuse(work, failed)
        rest = [slot for slot in slots if table.row[slot] == NO_ROW and slot not in failed]
        stored = [slot for slot in rest if table.parked[slot] is None][: version.arena.limit]
        if stored:
            self.residents.want(stored, lambda failures: self._returned(work, failures))
        self._crowded |= bool(rest) and not stored
        return rest

    def _refuse(self, work: Work, failed: Failures) -> None:
        """Items of sessions that can't come back are refused; the others of the work ride."""
        if failed:
            slots, good = self._own(work)
            refused = [
                (item, failed[slot])
                for item, slot in enumerate(slots.tolist())
                if good[item] and slot in failed
            ]
            work.refusals = [*work.refusals, *refused]

    def _returned(self, work: Work, failures: Failures) -> None:
        """Sessions that a work waits for are here, or can't come: all who wait try again.

        One that there was no room for is in memory now.
        """
        self._refuse(
            work, {s: e for s, e in failures.items() if not isinstance(e, SessionCapacity)}
        )
        self._try_again()

    def _try_again(self) -> None:
        self._crowded = False
        works, self._works = self._works, []
        self._has_waiting[:] = False
        self._come_in(reversed(works))


def _in_vain(version: LoadedVersion, work: Work, items: int) -> CarouselError | None:
    """Why nobody waits for the rest of a work any more, if so: then no row is moved for it."""
    if work.cancelled:
        return Cancelled("the caller went away")
    if work.deadline <= time.monotonic():
        version.metrics.deadline_queue.inc(items)
        return DeadlineExceeded("the deadline passed before the step's turn came")
    return None
