"""Parties: who has how much inside, of all models together.

A party is a tenant or, where a caller names none, its connection. Of the event loop's thread.
"""

from __future__ import annotations

FEW = 16  # who has less than this part of what each has on average has little


class Parties:
    """Items that came in and have no answer yet, of each who has any."""

    def __init__(self) -> None:
        self.are_several = False  # looked at in every turn
        self._inside: dict[str, int] = {}
        self._total = 0

    def enter(self, party: str, count: int) -> None:
        self._inside[party] = self._inside.get(party, 0) + count
        self._total += count
        self.are_several = len(self._inside) > 1

    def leave(self, party: str, count: int) -> None:
        left = self._inside.pop(party, 0) - count
        if left:
            self._inside[party] = left
        self._total -= count
        self.are_several = len(self._inside) > 1

    def is_modest(self, party: str) -> bool:
        """Whether it has little beside what others have; from any thread."""
        return self._inside.get(party, 0) * FEW * len(self._inside) < self._total
