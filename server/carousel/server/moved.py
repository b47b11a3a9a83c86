"""Moved: the sessions that changed since they were last copied for the store, oldest first."""

from __future__ import annotations

from collections import deque

import numpy as np

from carousel.server.table import FREE, MEMORY, NO_ROW, SYNC, SessionTable
from carousel.server.work import Ints

NOBODY = np.zeros(0, np.int64)


class Moved:
    """Each slot once, as `table.touched` says."""

    def __init__(self, table: SessionTable) -> None:
        self._table = table
        self._slots: deque[Ints] = deque()

    def __bool__(self) -> bool:
        return bool(self._slots)

    def add(self, slots: Ints) -> None:
        touched = self._table.touched
        new = slots[~touched[slots]]
        if len(new):
            touched[new] = True
            self._slots.append(new)

    def take(self, most: int, reply_bytes: int) -> Ints:
        """Take out those to copy now: SYNC first, then as they came.

        At most so many, and no more once their chunks' replies together have so many bytes.
        """
        if self._table.syncs:
            self._bring_forward()
        taken = [NOBODY]
        while self._slots and most > 0 and reply_bytes > 0:
            slots = self._those_here(self._slots.popleft())
            sizes = self._reply_bytes(slots[:most])
            now = slots[: int(np.searchsorted(sizes, reply_bytes)) + 1][:most]
            if len(later := slots[len(now) :]):
                self._table.touched[later] = True
                self._slots.appendleft(later)
            if len(now):
                reply_bytes -= int(sizes[len(now) - 1])
            most -= len(now)
            taken.append(now)
        return np.concatenate(taken)

    def clear(self) -> None:
        """Forget them all."""
        while self._slots:
            self._table.touched[self._slots.popleft()] = False

    def _bring_forward(self) -> None:
        if self._slots:
            slots = np.concatenate(self._slots)
            is_sync = self._table.durability[slots] == SYNC
            self._slots = deque([np.concatenate([slots[is_sync], slots[~is_sync]])])

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
