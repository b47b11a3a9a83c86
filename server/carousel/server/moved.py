"""Moved: the sessions that changed since they were last copied for the store, oldest first."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from carousel.server.table import FREE, MEMORY, NO_ROW, SYNC, SessionTable
from carousel.server.work import Ints

NOBODY = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Portion:
    """What is written at once: so many sessions, of which the replies to chunks have so many bytes.

    `rest` is in seconds for each second of writing while nobody waits: where all sessions move all
    the time, what is written takes a part of the machine that stays small, and grows older instead.
    """

    sessions: int
    reply_bytes: int
    rest: float


MUCH = Portion(512, 2**40, 4.0)  # while somebody waits: a copy between two turns takes 0.6 ms
USUAL = Portion(128, 2**40, 4.0)  # 512 records take 12 to 16 ms of the machine at a stretch
LITTLE = Portion(32, 2**16, 8.0)  # beside a party with little, whose steps feel even that


class Moved:
    """Each slot once, as `table.touched` says."""

    def __init__(self, table: SessionTable) -> None:
        self._table = table
        self._slots: deque[tuple[float, Ints]] = deque()  # with the moment they moved

    def __bool__(self) -> bool:
        return bool(self._slots)

    def age(self, now: float) -> float:
        """Seconds for which the oldest has waited."""
        return now - self._slots[0][0] if self._slots else 0.0

    def add(self, slots: Ints, now: float) -> None:
        """`now` is on the clock of time.monotonic."""
        touched = self._table.touched
        new = slots[~touched[slots]]
        if len(new):
            touched[new] = True
            self._slots.append((now, new))

    def take(self, portion: Portion) -> Ints:
        """Take out those to copy now: SYNC first, then as they came.

        No more than a portion, and of one whose reply is long at least itself.
        """
        most, reply_bytes = portion.sessions, portion.reply_bytes
        if self._table.syncs:
            self._bring_forward()
        taken = [NOBODY]
        while self._slots and most > 0 and reply_bytes > 0:
            since, slots = self._slots.popleft()
            slots = self._those_here(slots)
            sizes = self._reply_bytes(slots[:most])
            now = slots[: int(np.searchsorted(sizes, reply_bytes)) + 1][:most]
            if len(later := slots[len(now) :]):
                self._table.touched[later] = True
                self._slots.appendleft((since, later))
            if len(now):
                reply_bytes -= int(sizes[len(now) - 1])
            most -= len(now)
            taken.append(now)
        return np.concatenate(taken)

    def clear(self) -> None:
        """Forget them all."""
        while self._slots:
            self._table.touched[self._slots.popleft()[1]] = False

    def _bring_forward(self) -> None:
        if self._slots:
            slots = np.concatenate([slots for _, slots in self._slots])
            is_sync = self._table.durability[slots] == SYNC
            slots = np.concatenate([slots[is_sync], slots[~is_sync]])
            self._slots = deque([(self._slots[0][0], slots)])

    def _those_here(self, slots: Ints) -> Ints:
        """Those that are durable and in the arena; the others are not touched any more."""
        table = self._table
        table.touched[slots] = False
        here = (table.state[slots] != FREE) & (table.durability[slots] != MEMORY)
        found: Ints = slots[here & (table.row[slots] != NO_ROW)]
        return found

    def _reply_bytes(self, slots: Ints) -> Ints:
        """Of the kept replies of chunks, those of the first session, of the first two, ..."""
        replies = self._table.chunk_replies
        if not len(replies):
            return np.zeros(len(slots), np.int64)
        kept = [replies.get(slot) for slot in slots.tolist()]
        sizes = [0 if reply is None else reply.nbytes for reply in kept]
        return np.array(sizes, np.int64).cumsum()
