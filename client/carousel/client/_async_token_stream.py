"""AsyncTokenStream: the tokens of one generation, as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from carousel.client._async_transport import AsyncTransport
from carousel.client._events import Event
from carousel.client._generation import PATH, Generation
from carousel.client._inference_values import Token
from carousel.client._retry import delay
from carousel.client._token_stream import TokenStreamView
from carousel.errors import CarouselError
from carousel.v1 import inference_service_pb2 as pb


async def _nothing(*_: float) -> None:
    """A model needs no preparation, and nothing to be brought back."""


class AsyncTokenStream(TokenStreamView, AsyncIterator[Token]):
    """An async iterator over tokens. Dropping it, or `close`, stops the generation.

    Nothing is sent before the first token is asked for. When the connection breaks, or the server
    of a session that survives it is lost, or a task that waits for a token is cancelled, it goes
    on with the token that follows the last one that came.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        generation: Generation,
        timeout: float,
        prepare: Callable[[], Awaitable[None]] = _nothing,
        recover: Callable[[float], Awaitable[None]] = _nothing,
    ) -> None:
        super().__init__(generation)
        self._transport = transport
        self._timeout = timeout
        self._prepare = prepare
        self._recover = recover  # brings the session back until this moment
        self._end: float | None = None  # on the loop's clock; None before the first token
        self._call: Any = None

    async def _open(self) -> None:
        if self._end is None:
            await self._prepare()
            self._end = _now() + self._timeout
        self._call = self._generation.call = self._transport.stream(
            PATH,
            self._generation.request(),
            pb.GenerateResponse,
            timeout=max(self._end - _now(), 0.001),
        )

    async def __anext__(self) -> Token:
        generation = self._generation
        while not generation.is_over():
            if self._call is None:
                await self._open()
            try:
                response = await self._transport.read(self._call)
            except CarouselError as error:
                if not generation.is_over():
                    await self._mend(error)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    self._call = None  # gRPC gave it up as well
                    raise
                if not generation.is_over():  # else it was the call that was cancelled
                    raise
            else:
                if response is None:
                    break
                return generation.take(response, self._transport.link)
        if generation.finish_reason is not None and self._call is not None:
            await self._call.code()  # left before its status, it would count as taken back
        raise StopAsyncIteration

    async def _mend(self, error: CarouselError) -> None:
        """Go on behind what came; raises what can't be mended."""
        generation, end = self._generation, self._end
        assert end is not None
        self._call = None
        try:
            attempt = generation.retry(error)
            wait = delay(attempt)
            if _now() + wait >= end:
                raise error
            self._transport.link.tell(Event("retry", attempt=attempt, delay=wait, error=error))
            await asyncio.sleep(wait)
            if generation.is_lost(error):
                await self._recover(end)
        except CarouselError as failure:
            generation.fail(failure)
            raise

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


def _now() -> float:
    return asyncio.get_running_loop().time()
