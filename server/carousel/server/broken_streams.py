"""Streams that broke off: whose sessions come back in another one soon, and whose never do."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable

REMEMBERED = 65_536
REMEMBERED_SECONDS = 60.0


class BrokenStreams:
    """Handles of sessions whose stream broke off a moment ago. Of the event loop's thread."""

    def __init__(self) -> None:
        self._until: OrderedDict[int, float] = OrderedDict()  # on the clock of time.monotonic

    def __bool__(self) -> bool:
        return bool(self._until)

    def remember(self, handles: Iterable[int]) -> None:
        until = time.monotonic() + REMEMBERED_SECONDS
        for handle in handles:
            self._until[handle] = until
            self._until.move_to_end(handle)
        while len(self._until) > REMEMBERED:
            self._until.popitem(last=False)

    def take_back(self, handles: Iterable[int]) -> int:
        """How many of these sessions come from a broken stream; each is told of once."""
        now = time.monotonic()
        while self._until and next(iter(self._until.values())) < now:
            self._until.popitem(last=False)
        return sum(self._until.pop(handle, None) is not None for handle in handles)
