"""AsyncReplay: the past steps of an audited session, as they are computed again."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Self

from carousel.client._async_transport import AsyncTransport
from carousel.client._replay_values import ReplayedStep, ReplayView


class AsyncReplay(ReplayView, AsyncIterator[ReplayedStep]):
    """An async iterator over steps, in the order in which they were committed; then it has a
    summary.

    Dropping it, or `close`, stops the computation. Nothing is sent before the first step is asked
    for.
    """

    def __init__(self, transport: AsyncTransport, start: Callable[[], Any]) -> None:
        super().__init__()
        self._transport = transport
        self._start = start
        self._call: Any = None
        self._waiting: Iterator[ReplayedStep] = iter(())

    async def __anext__(self) -> ReplayedStep:
        if self._call is None:
            self._call = self._start()
        while (step := next(self._waiting, None)) is None:
            response = None if self._summary else await self._transport.read(self._call)
            if response is None:
                raise StopAsyncIteration
            self._waiting = self._take(response)
        return step

    async def close(self) -> None:
        """Stop it."""
        if self._call is not None:
            self._call.cancel()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
