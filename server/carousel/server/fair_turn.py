"""A turn that calls share: one at a time, and tenants one after the other."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairTurn:
    """However many calls of a tenant wait, another's waits for one of them. Of an event loop."""

    def __init__(self) -> None:
        self.busy = False
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def of(self, tenant: str) -> AsyncIterator[None]:
        """Wait for the tenant's turn; the next call comes when the block ends."""
        await self._wait(tenant)
        try:
            yield
        finally:
            self._go_on()

    async def _wait(self, tenant: str) -> None:
        if not self.busy:
            self.busy = True
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._go_on()  # its turn had just come
            raise

    def _go_on(self) -> None:
        while self._waiting:
            tenant, calls = self._waiting.popitem(last=False)
            turn = calls.popleft()
            if calls:
                self._waiting[tenant] = calls  # behind the others
            if not turn.done():  # else its caller is gone
                turn.set_result(None)
                return
        self.busy = False
