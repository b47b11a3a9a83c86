"""Stop texts: holds text back for as long as it may still become one of them."""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Feed text piece by piece; get out what is certain to be before any stop text."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """Text that is now certain, and whether a stop text is complete."""
        self._held += text
        ends = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if ends:
            certain, self._held = self._held[: min(ends)], ""
            return certain, True
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        certain, self._held = self._held[:cut], self._held[cut:]
        return certain, False

    def rest(self) -> str:
        """What was held back in vain."""
        rest, self._held = self._held, ""
        return rest

    def _overlap(self, stop: str) -> int:
        """How many of the last characters begin this stop text."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)
