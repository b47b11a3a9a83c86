"""Watching a server: one look after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from carousel.cli.top_look import Look, look
from carousel.cli.top_now import Now, now

if TYPE_CHECKING:
    from carousel.client import Client


class Watch(Iterator[Now]):
    """What a server does, from look to look, also through times at which it is not there.

    The first comes at once, and has no rates yet. Raises Unauthenticated and PermissionDenied:
    who is not let in at all would not be with the next look.
    """

    def __init__(self, client: Client, interval: float) -> None:
        self.target, self.interval = client.target, interval
        self._client = client
        self._before: Look | None = None
        self._due = time.monotonic()
        self._lost_since: float | None = None

    def __next__(self) -> Now:
        from carousel.errors import CarouselError, PermissionDenied, Unauthenticated

        time.sleep(max(0.0, self._due - time.monotonic()))
        self._due = time.monotonic() + self.interval
        try:
            seen = look(self._client, timeout=max(2.0, self.interval))
        except (PermissionDenied, Unauthenticated):
            raise
        except CarouselError as error:
            self._lost_since = self._lost_since or time.monotonic()
            self._before = None
            away = time.monotonic() - self._lost_since
            return Now(target=self.target, trouble=error.message, away_seconds=away)
        before, self._before, self._lost_since = self._before, seen, None
        return now(self.target, seen, before)
