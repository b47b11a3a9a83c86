"""Refused: items of a stream for which there was no room, told together in a little while."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from carousel.errors import QueueFull
from carousel.server.door import UNKNOWN_RETRY
from carousel.server.item_errors import refuse
from carousel.v1 import inference_service_pb2 as pb

# Who is to come back in two seconds may wait a twentieth of that to be told so.
SHARE, LONGEST = 1 / 20, 0.1  # of the time after which to come back; seconds
ENOUGH = 128  # items that wait to be told: until they are, their stream is read no further


class Refused:
    """Of one stream: `put` takes what its caller is told.

    A server that has too much to do refuses the same callers again and again, and to receive or
    send a message costs far more than to refuse one: so refusals are told together, and whoever
    goes on sending meanwhile is read more slowly.
    """

    def __init__(self, put: Callable[[pb.StepResponse], None]) -> None:
        self._put = put
        self._items = pb.StepRequest()
        self._error = QueueFull("")
        self._timer: asyncio.TimerHandle | None = None

    def add(self, handles: Sequence[int], indexes: Sequence[int], error: QueueFull) -> None:
        """All items of a message, whose columns fit."""
        if error.message != self._error.message:
            self.tell()
        self._error = error
        self._items.handles.extend(handles)
        self._items.step_indexes.extend(indexes)
        if self._timer is None:
            wait = min(SHARE * (error.retry_after or UNKNOWN_RETRY), LONGEST)
            self._timer = asyncio.get_running_loop().call_later(wait, self.tell)

    @property
    def enough(self) -> bool:
        """Whether nothing more should be read until these are told."""
        return len(self._items.handles) >= ENOUGH

    def tell(self) -> None:
        """Tell of all that were refused since the last time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._items.handles:
            items, self._items = self._items, pb.StepRequest()
            self._put(refuse(items, self._error))
