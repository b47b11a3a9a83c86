"""A token bucket: so many steps a second, one second's worth at once."""

from __future__ import annotations

import math

RATE_SECONDS = 5.0  # over about how long the rate is measured


class Bucket:
    """Of one tenant; times are on the clock of time.monotonic.

    A message is let in while anything is left and takes all of its steps, if need be on credit, so
    that one of more steps than a second has is not refused for ever.
    """

    __slots__ = ("_left", "_moved", "_then")

    def __init__(self, now: float) -> None:
        self._left = math.inf  # as much as the bucket holds
        self._moved = 0.0  # steps of late, those of longer ago counting less
        self._then = now

    def take(self, steps: int, limit: int | None, now: float) -> float:
        """Take steps: 0, or how many seconds to wait before anything may be taken."""
        self._pass(limit, now)
        if limit is not None:
            if self._left <= 0:
                return (1 - self._left) / limit if limit else math.inf
            self._left -= steps
        self._moved += steps
        return 0.0

    def rate(self, now: float) -> float:
        """Steps a second."""
        return self._moved * math.exp((self._then - now) / RATE_SECONDS) / RATE_SECONDS

    def _pass(self, limit: int | None, now: float) -> None:
        passed, self._then = now - self._then, now
        self._moved *= math.exp(-passed / RATE_SECONDS)
        if limit is not None:
            self._left = min(self._left + passed * limit, float(limit))
