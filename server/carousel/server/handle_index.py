"""The index of handles: from 64 random bits to the slot they name, a whole column at once."""

from __future__ import annotations

import secrets

import numpy as np

from carousel.server.work import Handles, Ints

PLACES = 2  # for each slot, at least


class HandleIndex:
    """The low bits of a handle are its place, where its slot stands; no two have the same place.

    A handle is drawn again until its place is free, so that it tells nothing about its slot, nor
    how many others there are. A place is free once the handle of the slot there is another one:
    nothing has to be removed. Place 0 is nobody's, as 0 is no handle.
    """

    def __init__(self) -> None:
        self._slots: Ints = np.zeros(1, np.int64)
        self._mask = np.uint64(0)

    def slot(self, handle: int) -> int:
        """The only slot that may have this handle; from any thread."""
        slots = self._slots
        return slots.item(handle & (len(slots) - 1))

    def slots(self, handles: Handles) -> Ints:
        """The same for a column, from any thread."""
        slots = self._slots
        return slots.take((handles & np.uint64(len(slots) - 1)).view(np.int64))

    def draw(self, slot: int, column: Handles) -> int:
        """A new handle for a slot, written into the column of all slots' handles."""
        mask = len(self._slots) - 1
        while True:
            handle = secrets.randbits(64)
            place = handle & mask
            if place and column.item(self._slots.item(place)) & mask != place:
                self._slots[place] = slot
                column[slot] = handle
                return handle

    def draw_many(self, slots: Ints, column: Handles) -> None:
        """The same for many different slots."""
        while len(slots):
            drawn = np.frombuffer(secrets.token_bytes(8 * len(slots)), np.uint64)
            places = (drawn & self._mask).view(np.int64)
            taken = (column[self._slots[places]] & self._mask).view(np.int64) == places
            free = ~taken & (places > 0)
            self._slots[places[free]] = slots[free]
            won = free & (self._slots[places] == slots)  # of those at one place, the last
            column[slots[won]] = drawn[won]
            slots = slots[~won]

    def grow(self, column: Handles) -> None:
        """Have places for a longer column. With more bits, no two come to the same place."""
        size = 1 << (PLACES * len(column) - 1).bit_length()
        slots, mask = np.zeros(size, np.int64), np.uint64(size - 1)
        live = np.flatnonzero(column)
        slots[(column[live] & mask).view(np.int64)] = live
        self._slots, self._mask = slots, mask
