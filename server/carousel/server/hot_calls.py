"""Hot calls: those of the busiest methods, taken up many at a time, with one task each.

grpc.aio takes up one call in an iteration of the event loop, by way of `asyncio.wait`, and gives it
three tasks more: 0.2 ms of Python for a call that does nothing. Here many requests for the next
call wait in gRPC's core, and what one answers goes on in a task of its own. That takes parts of
grpc.aio which are not public. Where a version lacks one of them, grpc.aio serves these methods
alone, as it serves them beside: they are registered with it.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

log = logging.getLogger("carousel.rpc")

WAITING = 64  # requests for the next call of a method: so many are taken up in an iteration
PARTS = (
    *("AioServer", "_ServicerContext", "execute_batch", "_receive_message"),
    *("SendInitialMetadataOperation", "SendMessageOperation", "SendStatusFromServerOperation"),
    *("ReceiveCloseOnServerOperation", "_handle_stream_stream_rpc", "_RequestCallError"),
)
NO_FLAGS = 0

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Handlers: TypeAlias = dict[str, Handler]
"""By their paths."""

Serve = Callable[[Any], Awaitable[None]]


class HotCalls:
    """Takes up calls of a server that has started, beside the server itself."""

    def __init__(self, server: grpc.aio.Server, handlers: Handlers) -> None:
        self._loop = asyncio.get_running_loop()
        self.lost = 0  # calls that were taken back before their request had come
        self.live: set[asyncio.Task[None]] = set()  # the loop itself would forget them
        self._core = inner_parts()
        self._server: Any = getattr(server, "_server", None)
        if self._core is None or not isinstance(self._server, self._core.AioServer):
            log.warning("this version of grpcio has not the parts that make calls of steps cheap")
            return
        for method, handler in handlers.items():
            serve = self._streamed(handler) if handler.response_streaming else self._unary(handler)
            for _ in range(WAITING):
                self._keep(self._take_up(method.encode(), serve))

    def _keep(self, coroutine: Any) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        self.live.add(task)
        task.add_done_callback(self.live.discard)
        return task

    async def _take_up(self, method: bytes, serve: Serve) -> None:
        while self._server.is_running():
            try:
                state = await self._server._request_registered_call(method)
            except self._core._RequestCallError:
                continue  # mostly since the server stops
            self._watch(state, self._keep(self._serve(state, serve)))

    async def _serve(self, state: Any, serve: Serve) -> None:
        """What a call ends with was told before, or nobody is there any more to be told."""
        try:
            await serve(state)
        except (grpc.aio.AbortError, self._core.ExecuteBatchError, asyncio.CancelledError):
            pass
        except Exception:
            log.exception("a call was given up")

    def _unary(self, handler: Handler) -> Serve:
        core, loop = self._core, self._loop
        handle: Any = handler.unary_unary
        serialize: Any = handler.response_serializer

        async def serve(state: Any) -> None:
            request = await core._receive_message(state, loop)
            if request is None:
                self.lost += 1
                return  # it was cancelled at once
            context = core._ServicerContext(state, None, None, loop)
            data = serialize(await handle(request, context))
            answer = (
                core.SendInitialMetadataOperation(None, NO_FLAGS),
                core.SendMessageOperation(data, NO_FLAGS),
                core.SendStatusFromServerOperation((), 0, "", NO_FLAGS),
            )
            await core.execute_batch(state, answer, loop)

        return serve

    def _streamed(self, handler: Handler) -> Serve:
        def serve(state: Any) -> Awaitable[None]:
            found: Awaitable[None] = self._core._handle_stream_stream_rpc(
                handler, state, self._loop
            )
            return found

        return serve

    def _watch(self, state: Any, task: asyncio.Task[None]) -> None:
        """Cancel the task when its caller cancels the call.

        The batch that waits for this is a coroutine, and a task for it would cost as much as all
        the rest here: it is driven by hand, over the one future that it waits for.
        """
        closing = self._core.ReceiveCloseOnServerOperation(NO_FLAGS)
        batch = self._core.execute_batch(state, (closing,), self._loop)
        future = batch.send(None)
        future._asyncio_future_blocking = False

        def closed(_: object) -> None:
            try:
                batch.send(None)
            except StopIteration:
                if closing.cancelled():
                    task.cancel()
            except self._core.ExecuteBatchError:
                task.cancel()

        future.add_done_callback(closed)


def inner_parts() -> Any:
    """The module of grpcio that has all of the parts, or None."""
    try:
        core: Any = importlib.import_module("grpc._cython.cygrpc")
    except ImportError:
        return None
    return core if all(hasattr(core, part) for part in PARTS) else None
