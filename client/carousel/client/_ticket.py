"""A ticket: a session's place in the coalescer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from carousel.client._cursor import Cursor
from carousel.client._inputs import Floats
from carousel.errors import CarouselError


class Ticket:
    """Who waits for its open item, until when, and what nobody fetched."""

    __slots__ = ("cursor", "deadline", "future", "is_fresh", "recover", "timeout", "unclaimed")

    def __init__(
        self,
        cursor: Cursor,
        future: asyncio.Future[Floats],
        recover: Callable[[float], Awaitable[None]],
    ) -> None:
        self.cursor = cursor
        self.recover = recover  # brings the session back until this moment of the loop's clock
        self.future = future
        self.is_fresh = True  # the open item has never been sent
        self.timeout = 0.0
        self.deadline = 0.0
        self.unclaimed: Floats | CarouselError | None = None

    def give(self, rows: Floats) -> None:
        if self.future.done():
            self.unclaimed = rows
        else:
            self.future.set_result(rows)

    def refuse(self, error: CarouselError) -> None:
        if self.future.done():
            self.unclaimed = error
        else:
            self.future.set_exception(error)
