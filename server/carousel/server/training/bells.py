"""Bells: who waits for news of a job is woken when this server writes some."""

from __future__ import annotations

import asyncio
import contextlib
from weakref import WeakValueDictionary


class Bells:
    """One bell for each job that somebody listens to. Of one event loop."""

    def __init__(self) -> None:
        self._bells: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def ring(self, job: str) -> None:
        bell = self._bells.pop(job, None)
        if bell is not None:
            bell.set()

    def ring_all(self) -> None:
        for job in list(self._bells):
            self.ring(job)

    def listen(self, job: str) -> asyncio.Event:
        """Set at the next ring. Take it before looking, so that nothing falls in between."""
        return self._bells.setdefault(job, asyncio.Event())


async def wait(bell: asyncio.Event, seconds: float) -> None:
    """Until the bell rings, or for so long."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(bell.wait(), seconds)
