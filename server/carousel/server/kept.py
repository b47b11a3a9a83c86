"""Kept states: those that a session can go back to, by step index or by name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from carousel.server.work import Ints


@dataclass(slots=True, frozen=True)
class Mark:
    """A state that was given a name: a row of the arena and the step index it was taken at."""

    row: int
    step_index: int


class Ring:
    """The last states of one session: rows of the arena and the step index each was taken at."""

    __slots__ = ("indexes", "rows")

    def __init__(self, rows: Ints) -> None:
        self.rows = rows
        self.indexes = np.full(len(rows), -1, np.int64)

    def keep(self, step_index: int) -> int:
        """The row for the state before this step, in place of the oldest."""
        place = step_index % len(self.rows)
        self.indexes[place] = step_index
        return int(self.rows[place])

    def kept(self, before: int) -> dict[int, int]:
        """Step indexes below `before` whose states are kept, and their rows, in order."""
        pairs = zip(self.indexes.tolist(), self.rows.tolist(), strict=True)
        return {index: row for index, row in sorted(pairs) if 0 <= index < before}

    def find(self, step_index: int) -> int | None:
        """The row with the state before this step, if it is still kept."""
        place = step_index % len(self.rows)
        return int(self.rows[place]) if self.indexes[place] == step_index else None
