"""Parties: who has how much inside, of all models together.

A party is a tenant or, where a caller names none, its connection. The event loop's thread enters
and leaves; who has little may be asked from any.
"""

from __future__ import annotations

from dataclasses import dataclass

FEW = 16  # who has less than this part of what each has on average has little
WINDOW = 1.0  # seconds
GROWS = 0.02  # seconds after it had more than ever in which a party may still get more


@dataclass(slots=True)
class Party:
    """Items that came in and have no answer yet: now, and the most at a time.

    `grew` is when that became more, on the clock of time.monotonic.
    """

    inside: int = 0
    grew: float = 0.0
    most: int = 0  # in this window and the one before
    latest: int = 0  # in this window


class Parties:
    """Those who had anything inside lately."""

    def __init__(self) -> None:
        self._parties: dict[str, Party] = {}
        self._most = 0  # what each had inside at most, together
        self._window = 0.0  # when it began

    def enter(self, name: str, count: int, now: float) -> None:
        if now - self._window > WINDOW:
            self._next_window(now)
        party = self._parties.get(name)
        if party is None:
            party = self._parties[name] = Party()
        party.inside += count
        party.latest = max(party.latest, party.inside)
        if party.inside > party.most:
            self._most += party.inside - party.most
            party.most, party.grew = party.inside, now

    def leave(self, name: str, count: int) -> None:
        party = self._parties.get(name)
        if party is not None:  # it came through a door
            party.inside -= count

    @property
    def are_unlike(self) -> bool:
        """Whether anybody can have little beside others; looked at several times a turn."""
        return len(self._parties) > 1 and self._is_little(1)

    def is_modest(self, name: str) -> bool:
        """Whether it has little beside others.

        What counts is the most that each had at a time: whoever has many sessions and has just got
        all of its answers has nothing for a moment, and of many calls most are on their way.
        """
        party = self._parties.get(name)
        return party is not None and self._is_little(party.most)

    def _is_little(self, most: int) -> bool:
        return most * FEW * len(self._parties) < self._most

    def may_grow(self, name: str, now: float) -> bool:
        """Whether its work has only begun to come, so that nobody knows how much it will be."""
        party = self._parties.get(name)
        return party is None or now - party.grew < GROWS

    def _next_window(self, now: float) -> None:
        """Forget who had nothing inside in the last one, if that has only just ended."""
        is_next = now - self._window < 2 * WINDOW
        self._window = now
        for party in self._parties.values():
            party.most = party.latest if is_next else party.inside
            party.latest = party.inside
        self._parties = {name: one for name, one in self._parties.items() if one.most}
        self._most = sum(one.most for one in self._parties.values())
