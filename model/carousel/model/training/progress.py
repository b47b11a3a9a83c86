"""How fast a job is and how far: what a progress event says."""

import time
from typing import Any

from carousel.model.data import Batch
from carousel.model.training.health import Sums
from carousel.model.training.recipe import Recipe

EVERY = 2.0  # seconds between two progress events, and between two signs of life


class Progress:
    """Gathers what happened since the last progress event."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self.sums = Sums()
        self._read = 0  # sequence steps since the last report
        self._updates = self._clipped = 0  # since the start, of this process
        self.start(0)

    def start(self, step: int) -> None:
        """Begin to count, or begin again after a roll-back."""
        self._began = self._last = time.monotonic()
        self._first_step = step
        self._reported = False

    @property
    def elapsed(self) -> float:
        """Seconds since `start`."""
        return time.monotonic() - self._began

    @property
    def clipped_ratio(self) -> float:
        """Share of all updates that were clipped."""
        return self._clipped / max(1, self._updates)

    def count(self, batch: Batch) -> None:
        """Take in the sequence steps of one update."""
        lengths = batch.lengths
        self._read += batch.x.shape[:2].numel() if lengths is None else int(lengths.sum())

    def saw(self, sums: Sums) -> None:
        """Take in what the latest updates came to."""
        self.sums += sums
        self._updates += sums.good
        self._clipped += sums.clipped

    def due(self, step: int, first: int) -> bool:
        """Whether it is time to report: after the first few updates, then every 2 seconds."""
        if not self._reported:
            return step - self._first_step >= first
        return time.monotonic() - self._last >= EVERY

    def skip(self) -> None:
        """The time since the last report was not learning, and counts in no speed."""
        self._last = time.monotonic()

    def take(self, step: int, seconds: float, world: int) -> dict[str, Any]:
        """The part of a progress event that is known here, and begin to gather anew."""
        now = time.monotonic()
        speed = self._read * world / max(1e-9, now - self._last)
        update = self.elapsed / max(1, step - self._first_step)
        remaining = (self._recipe.max_steps - step) * update
        if self._recipe.max_seconds is not None:
            remaining = min(remaining, max(0.0, self._recipe.max_seconds - seconds))
        means = self.sums.means()
        self.sums, self._read, self._last, self._reported = Sums(), 0, now, True
        return means | {"steps_per_second": speed, "remaining_seconds": remaining}


class Pulse:
    """Says when it is time for a sign of life."""

    def __init__(self, every: float = EVERY) -> None:
        self._every = every
        self._last = time.monotonic()

    def due(self) -> bool:
        now = time.monotonic()
        if now - self._last < self._every:
            return False
        self._last = now
        return True
