"""Shares: deficit round robin between the lanes that wait, in steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from carousel.server.work import Ints


def is_bulk(lanes: Ints) -> Ints:
    """1 for a lane of bulk work, 0 for one of interactive work."""
    return lanes & 1


class Shares:
    """In which round each lane is; a round is one step of everybody who waits.

    Whoever is in the lowest round goes first, so that lanes which always have work waiting get the
    same number of steps, whatever their items are. A lane that took all it could keeps no claim to
    more: it is lifted to the `level`, the lowest round of those who had to leave something behind,
    and that is where newcomers begin. A lane's number is even for interactive and odd for bulk
    work; the two have levels of their own.
    """

    def __init__(self) -> None:
        self._rounds: Ints = np.zeros(64, np.int64)
        self._level: Ints = np.zeros(2, np.int64)

    def rounds(self, lanes: Ints) -> Ints:
        """The rounds in which these lanes are."""
        if len(lanes) and int(lanes.max()) >= len(self._rounds):
            grown = np.zeros(2 * int(lanes.max()), np.int64)
            grown[: len(self._rounds)] = self._rounds
            self._rounds = grown
        return np.maximum(self._rounds[lanes], self._level[is_bulk(lanes)])

    def take(self, lanes: Ints, taken: Ints, left: Ints, elsewhere: Iterable[int]) -> None:
        """Lanes took so many steps; `left` is what they had to leave behind.

        `elsewhere` are lanes that had no chance in this turn.
        """
        rounds = self.rounds(lanes) + taken
        self._rounds[lanes] = rounds
        others = np.array(list(elsewhere), np.int64)
        behind = np.concatenate([lanes[left > 0], others])
        behind_rounds = np.concatenate([rounds[left > 0], self.rounds(others)])
        for bulk in (0, 1):
            owed = behind_rounds[is_bulk(behind) == bulk]
            if len(owed):
                self._level[bulk] = max(self._level[bulk], owed.min())
            elif (mine := rounds[is_bulk(lanes) == bulk]).size:
                self._level[bulk] = mine.max()


@dataclass(frozen=True, slots=True)
class FirstOfEach:
    """Items that wait, by their lanes: the first of each, in order of arrival."""

    lanes: Ints  # those that wait
    counts: Ints  # items of each
    group: Ints  # of each item that is among the first: the place of its lane in `lanes`
    ranks: Ints  # items of its lane before it
    places: Ints  # its place among all items

    @classmethod
    def among(cls, lanes: Ints, limit: int) -> Self:
        """Of items in these lanes, at most `limit` of each lane."""
        short = lanes.astype(np.uint16) if lanes.max() < 2**16 else lanes  # a radix sort
        order = np.argsort(short, kind="stable")
        grouped = lanes[order]
        begins = np.flatnonzero(np.diff(grouped, prepend=-1))
        counts = np.diff(begins, append=len(grouped))
        near = np.minimum(counts, limit)
        group = np.repeat(np.arange(len(begins)), near)
        ranks = np.arange(len(group)) - np.repeat(np.cumsum(near) - near, near)
        return cls(grouped[begins], counts, group, ranks, order[begins[group] + ranks])
