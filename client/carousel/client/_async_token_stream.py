"""AsyncTokenStream: the tokens of one generation, as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from carousel.client._async_transport import AsyncTransport
from carousel.client._generation import Generation
from carousel.client._inference_values import Token
from carousel.client._token_stream import TokenStreamView
from carousel.errors import CarouselError


class AsyncTokenStream(TokenStreamView, AsyncIterator[Token]):
    """An async iterator over tokens. Dropping it, or `close`, stops the generation.

    Nothing is sent before the first token is asked for.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        start: Callable[[], Awaitable[Any]],
        generation: Generation,
    ) -> None:
        super().__init__(generation)
        self._transport = transport
        self._start = start
        self._call: Any = None

    async def __anext__(self) -> Token:
        if self._generation.is_over():
            raise StopAsyncIteration
        if self._call is None:
            self._call = self._generation.call = await self._start()
        try:
            response = await self._transport.read(self._call)
        except CarouselError as error:
            self._generation.fail(error)
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            if self._generation.is_over():  # gRPC says that the call was cancelled, not this task
                raise StopAsyncIteration from None
            raise
        if response is None:
            raise StopAsyncIteration
        return self._generation.take(response, self._transport.link)

    async def close(self) -> None:
        """Stop the generation; what was fed stays fed."""
        self._generation.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
