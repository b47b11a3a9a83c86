"""Parties: who has how much inside, of all models together.

A party is a tenant or, where a caller names none, its connection. The event loop's thread enters
and leaves; who has little may be asked from any.
"""

from __future__ import annotations

from dataclasses import dataclass, field

FEW = 16  # who has less than this part of what each has on average has little,
LITTLE = 16  # and at most so many items: of more, to ride together is worth a wait
WINDOW, MOMENT = 1.0, 0.05  # seconds for which the most of a party, and of all, is remembered
GROWS = 0.02  # seconds after it had more than ever in which a party may still get more


@dataclass(slots=True)
class Lately:
    """A number now, and the most that it was in this while and in the one before."""

    now: int = 0
    most: int = 0
    before: int = 0

    def add(self, count: int) -> None:
        self.now += count
        self.most = max(self.most, self.now)

    def begin(self, *, is_next: bool) -> None:
        """A while begins."""
        self.before = self.most if is_next else self.now
        self.most = self.now

    @property
    def peak(self) -> int:
        return max(self.most, self.before)


@dataclass(slots=True)
class Party:
    """`grew` is when it got more than ever lately, on the clock of time.monotonic."""

    inside: Lately = field(default_factory=Lately)
    grew: float = 0.0


class Parties:
    """Those who had anything inside lately: items that came in and have no answer yet."""

    def __init__(self) -> None:
        self._parties: dict[str, Party] = {}
        self._present = Lately()  # parties that have something inside
        self._inside = Lately()
        self._window = self._moment = 0.0  # when they began

    def enter(self, name: str, count: int, now: float) -> None:
        if now - self._window > WINDOW:
            self._next_window(now)
        party = self._parties.get(name)
        if party is None:
            party = self._parties[name] = Party()
        if now - self._moment > MOMENT:
            is_next = now - self._moment < 2 * MOMENT
            self._present.begin(is_next=is_next)
            self._inside.begin(is_next=is_next)
            self._moment = now
        if not party.inside.now:
            self._present.add(1)
        most = party.inside.peak
        party.inside.add(count)
        if party.inside.now > most:
            party.grew = now
        self._inside.add(count)

    def leave(self, name: str, count: int) -> None:
        party = self._parties.get(name)
        if party is None:
            return  # it came through no door
        party.inside.add(-count)
        self._inside.add(-count)
        if not party.inside.now:
            self._present.add(-1)

    @property
    def are_unlike(self) -> bool:
        """Whether anybody can have little beside others; looked at several times a turn."""
        return len(self._parties) > 1 and self._is_little(1)

    def is_modest(self, name: str) -> bool:
        """Whether it has little beside what others have.

        Its own is the most that it had at a time: who has many sessions and has just got all of
        its answers has nothing for a moment. Others' is the most of this moment: of many calls of
        one step most are on their way.
        """
        party = self._parties.get(name)
        return party is not None and (most := party.inside.peak) <= LITTLE and self._is_little(most)

    def _is_little(self, most: int) -> bool:
        return most * FEW * self._present.peak < self._inside.peak

    def may_grow(self, name: str, now: float) -> bool:
        """Whether its work has only begun to come, so that nobody knows how much it will be."""
        party = self._parties.get(name)
        return party is None or now - party.grew < GROWS

    def _next_window(self, now: float) -> None:
        """Forget who had nothing inside in the last one, if that has only just ended."""
        is_next = now - self._window < 2 * WINDOW
        self._window = now
        for party in self._parties.values():
            party.inside.begin(is_next=is_next)
        self._parties = {name: one for name, one in self._parties.items() if one.inside.peak}
