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
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from carousel.server import receipts
from carousel.server.resets.witness import Witness

log = logging.getLogger("carousel.rpc")

WAITING = 64  # requests for the next call of a method: so many are taken up in an iteration
# Of a method with a stream, which few begin and who takes calls back begins most. (Behind front
# ends what makes sessions is such a stream; nobody takes calls back there.)
STREAMS = 8
PARTS = (
    *("AioServer", "_ServicerContext", "execute_batch", "_receive_message"),
    *("SendInitialMetadataOperation", "SendMessageOperation", "SendStatusFromServerOperation"),
    *("ReceiveCloseOnServerOperation", "_handle_stream_stream_rpc", "_RequestCallError"),
)
NO_FLAGS = 0

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Handlers: TypeAlias = dict[str, Handler]
"""By their paths."""

Serve = Callable[[Any, "End"], Awaitable[None]]


class HotCalls:
    """Takes up calls of a server that has started, beside the server itself."""

    def __init__(self, server: grpc.aio.Server, handlers: Handlers) -> None:
        self._loop = asyncio.get_running_loop()
        self.lost = 0  # calls that were taken back before their request had come
        self.witness = Witness()
        self.live: set[asyncio.Task[None]] = set()  # the loop itself would forget them
        self._core = inner_parts()
        self._server: Any = getattr(server, "_server", None)
        if self._core is None or not isinstance(self._server, self._core.AioServer):
            log.warning("this version of grpcio has not the parts that make calls of steps cheap")
            return
        for method, handler in handlers.items():
            streams = handler.response_streaming
            serve = self._streamed(handler) if streams else self._unary(handler)
            if not streams and method.rpartition("/")[2] in receipts.NEEDED:
                serve = _awaiting(serve)
            for _ in range(STREAMS if streams else WAITING):
                self._keep(self._take_up(method.encode(), serve, streams=streams))

    def _keep(self, coroutine: Any) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        self.live.add(task)
        task.add_done_callback(self.live.discard)
        return task

    async def _take_up(self, method: bytes, serve: Serve, *, streams: bool) -> None:
        while self._server.is_running():
            try:
                state = await self._server._request_registered_call(method)
            except self._core._RequestCallError:
                continue  # mostly since the server stops
            try:
                end = End(self._core, state, self._loop)
                if self.witness.watching:
                    end.tell = self._asked(state)
                if streams:
                    await asyncio.sleep(0)  # by then gRPC says so if it was taken back at once
                if end.future.done():
                    self.lost += 1  # without a task, for half of what that would cost
                    end.tell()
                else:
                    end.cancels(self._keep(self._serve(state, serve, end)), self._lose)
            except Exception:  # whoever takes up calls goes on
                log.exception("a call could not be taken up")

    def _asked(self, state: Any) -> Callable[[], None]:
        """Of a call that has just come, to be called when it is taken back.

        A deadline that comes takes nothing back: of that some clients' are too short.
        """
        context = self._core._ServicerContext(state, None, None, self._loop)
        tell, left = self.witness.came(context.peer()), context.time_remaining()
        if left is None:
            return tell
        end = time.monotonic() + left
        return lambda: tell() if time.monotonic() < end else None

    def _lose(self) -> None:
        self.lost += 1

    async def _serve(self, state: Any, serve: Serve, end: End) -> None:
        """What a call ends with was told before, or nobody is there any more to be told."""
        try:
            await serve(state, end)
        except (grpc.aio.AbortError, self._core.ExecuteBatchError, asyncio.CancelledError):
            pass
        except Exception:
            log.exception("a call was given up")

    def _unary(self, handler: Handler) -> Serve:
        core, loop = self._core, self._loop
        handle: Any = handler.unary_unary
        serialize: Any = handler.response_serializer

        async def serve(state: Any, end: End) -> None:
            request = await core._receive_message(state, loop)
            if request is None:
                return  # it was cancelled at once
            end.has_begun = True
            context = core._ServicerContext(state, None, None, loop)
            data = serialize(await handle(request, context))
            answer = (
                core.SendInitialMetadataOperation(None, NO_FLAGS),
                core.SendMessageOperation(data, NO_FLAGS),
                core.SendStatusFromServerOperation(context.trailing_metadata(), 0, "", NO_FLAGS),
            )
            await core.execute_batch(state, answer, loop)

        return serve

    def _streamed(self, handler: Handler) -> Serve:
        def serve(state: Any, end: End) -> Awaitable[None]:
            end.has_begun = True
            found: Awaitable[None] = self._core._handle_stream_stream_rpc(
                handler, state, self._loop
            )
            return found

        return serve


class End:
    """The end of a call that its caller takes back; `future` is done when it has come.

    `has_begun` once a handler has the call, and counts it where it is lost. `tell` is called too
    when the call was taken back.

    The batch that waits for this is a coroutine, and a task for it would cost as much as all
    the rest here: it is driven by hand, over the one future that it waits for.
    """

    __slots__ = ("_batch", "_closing", "_core", "_lose", "_task", "future", "has_begun", "tell")

    def __init__(self, core: Any, state: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._core = core
        self.has_begun = False
        self.tell: Callable[[], None] = _nothing
        self._closing = core.ReceiveCloseOnServerOperation(NO_FLAGS)
        self._batch = core.execute_batch(state, (self._closing,), loop)
        self.future = self._batch.send(None)
        self.future._asyncio_future_blocking = False

    def cancels(self, task: asyncio.Task[None], lose: Callable[[], None]) -> None:
        """Cancel the task when the caller cancels the call; `lose` it if it had not begun."""
        self._task, self._lose = task, lose
        self.future.add_done_callback(self._ended)

    def _ended(self, _: object) -> None:
        try:
            self._batch.send(None)
        except StopIteration:
            if self._closing.cancelled():
                self.tell()
                self._task.cancel()
                if not self.has_begun:
                    self._lose()
        except self._core.ExecuteBatchError:
            self._task.cancel()


def _awaiting(serve: Serve) -> Serve:
    async def within(state: Any, end: End) -> None:
        with receipts.awaiting():
            await serve(state, end)

    return within


def _nothing() -> None:
    """Nobody asks."""


def inner_parts() -> Any:
    """The module of grpcio that has all of the parts, or None."""
    try:
        core: Any = importlib.import_module("grpc._cython.cygrpc")
    except ImportError:
        return None
    return core if all(hasattr(core, part) for part in PARTS) else None
