"""Turn: one user at a time, in the order they came; a lock that costs nothing while it is free."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence


class Turn:
    """Take it with `if turn.taken: await turn.wait()` and `else: turn.taken = True`.

    That is what `async with` does, without its two coroutines on the path of every step.
    """

    __slots__ = ("_waiters", "taken")

    def __init__(self) -> None:
        self.taken = False
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Wait until it is handed over."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():  # handed over just now
                self.leave()
            raise

    def leave(self) -> None:
        """Hand it to the next who still waits; it stays taken in between."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.taken = False

    async def __aenter__(self) -> None:
        if self.taken:
            await self.wait()
        else:
            self.taken = True

    async def __aexit__(self, *_: object) -> None:
        self.leave()


class Turns:
    """Many turns at once; to be given in one order everywhere, so that nobody waits in a ring."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = turns
        self._taken = 0

    async def __aenter__(self) -> None:
        try:
            for turn in self._turns:
                if turn.taken:
                    await turn.wait()
                else:
                    turn.taken = True
                self._taken += 1
        except asyncio.CancelledError:
            self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        for turn in self._turns[: self._taken]:
            turn.leave()
