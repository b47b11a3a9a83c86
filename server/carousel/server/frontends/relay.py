"""The relay: calls that a front end let in go on to the engine's process, and its answers back.

What the engine's process has done and what a call is said to have come to must not differ, where
its caller goes, or its deadline comes, while the answer is on its way: what sessions are made is
kept only with a receipt (`receipts`), and what can't be undone is waited for, up to LONGEST.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.rpc import status_pb2

from carousel.errors import CarouselError, Unavailable, from_parts, from_status
from carousel.server import one_step, receipts
from carousel.server.ending import DETAILS_KEY
from carousel.server.flow import owing
from carousel.server.frontends.forwarded import forwarded
from carousel.server.one_step import OneStep
from carousel.server.rpc import Line

Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[[Any, Context], Any]
T = TypeVar("T")

log = logging.getLogger("carousel.frontends")

LONGEST = 600.0  # seconds that a call may go on without its caller

TO_THE_END = frozenset(
    {
        *("ImportModelVersion", "DeleteModelVersion", "SetModelAlias", "DeleteModelAlias"),
        *("DeleteDataset", "CreateJob", "CancelJob", "ResumeJob", "DeleteJob"),
        "PromoteCheckpoint",
    }
)
"""Methods that end what they began, whether or not their caller is there; as uploads do, once all
of them has come."""


class Relay:
    """Has a method for each RPC of a service, which asks the engine's process.

    What a subclass answers itself is not relayed.
    """

    def __init__(self, channel: grpc.aio.Channel, service: ServiceDescriptor) -> None:
        for method in service.methods:
            if not hasattr(self, method.name):
                setattr(self, method.name, _method(channel, method))


def _method(channel: grpc.aio.Channel, method: MethodDescriptor) -> Method:
    needs_receipt = method.name in receipts.NEEDED
    kind = ("stream" if method.client_streaming or needs_receipt else "unary") + (
        "_stream" if method.server_streaming or needs_receipt else "_unary"
    )
    both_ways = method.client_streaming and method.server_streaming
    ask = getattr(channel, kind)(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=_bytes_of_streamed if both_ways else _bytes_of,
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    if needs_receipt:
        return _giving_receipts(ask)
    if both_ways:
        return _exchanging(ask)
    if method.server_streaming:
        return _yielding(ask)
    if method.client_streaming:
        return _uploading(ask)
    return _finishing(ask) if method.name in TO_THE_END else _returning(ask)


def _bytes_of(request: OneStep | Message) -> bytes:
    return request.message if isinstance(request, OneStep) else request.SerializeToString()


def _bytes_of_streamed(request: OneStep | Message) -> bytes:
    return (
        one_step.streamed(request.message) if isinstance(request, OneStep) else _bytes_of(request)
    )


class _Sending:
    """A call with a stream of requests: what breaks that off is its end, not gRPC's matter."""

    def __init__(self, ask: Any, requests: AsyncIterator[Any], context: Context, **more: Any):
        self._requests = requests
        self.error: Exception | None = None
        self.unanswered = False
        self.all_came = False
        self.call = ask(self._each(), metadata=forwarded(context), **more)

    async def _each(self) -> AsyncGenerator[Any]:
        try:
            async for request in self._requests:
                self.unanswered = True
                yield request
            self.all_came = True
        except Exception as error:
            self.error = error
            self.call.cancel()


def _begin(ask: Any, request: Any, context: Context) -> Any:
    return ask(request, metadata=forwarded(context), timeout=context.time_remaining())


def _returning(ask: Any) -> Method:
    async def relayed(request: Any, context: Context) -> Any:
        try:
            return await _begin(ask, request, context)
        except grpc.aio.AioRpcError as error:
            raise refusal(error) from None

    return relayed


def _finishing(ask: Any) -> Method:
    async def relayed(request: Any, context: Context) -> Any:
        try:
            return await _to_end(ask(request, metadata=forwarded(context)))
        except grpc.aio.AioRpcError as error:
            raise refusal(error) from None

    return relayed


def _uploading(ask: Any) -> Method:
    async def relayed(requests: AsyncIterator[Any], context: Context) -> Any:
        sending = _Sending(ask, requests, context)
        try:
            return await _to_end(sending.call, unless=lambda: not sending.all_came)
        except asyncio.CancelledError:
            sending.call.cancel()
            if sending.error is not None:
                raise sending.error from None
            raise
        except grpc.aio.AioRpcError as error:
            raise refusal(error) from None

    return relayed


def _giving_receipts(ask: Any) -> Method:
    """The engine has its receipt when the answer has gone on to the caller; where that can't be
    known (`receipts.is_awaited`), when it has come here."""
    ends: set[asyncio.Task[None]] = set()  # the event loop itself would forget them

    async def relayed(request: Any, context: Context) -> Any:
        received = asyncio.Event()

        async def requests() -> AsyncGenerator[Any]:
            yield request
            await received.wait()

        # Without a deadline of its own, which could come between the receipt and the status.
        call = ask(requests(), metadata=forwarded(context))
        answers = aiter(call)

        def lose() -> None:
            call.cancel()
            received.set()  # or what waits for it would wait for ever

        async def end() -> None:
            received.set()
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
                await anext(answers, None)

        def keep() -> None:
            task = asyncio.ensure_future(end())
            ends.add(task)
            task.add_done_callback(ends.discard)

        try:
            response = await anext(answers)
            if receipts.is_awaited():
                receipts.unless_received(lose, received=keep)
            else:
                received.set()
                await _to_end(anext(answers, None))  # it is kept now, or the engine says why not
        except BaseException as error:
            lose()
            if isinstance(error, grpc.aio.AioRpcError):
                raise refusal(error) from None
            raise
        return response

    return relayed


async def _to_end(what: Awaitable[T], *, unless: Callable[[], object] = lambda: False) -> T:
    """Wait for it also when the caller goes meanwhile: that comes too late.

    Not for ever, or what callers have left behind at an engine that hangs would pile up.
    """
    task = asyncio.ensure_future(what)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if unless():
            raise
        await asyncio.wait([task], timeout=LONGEST)
        if task.done():
            return task.result()
        task.cancel()
        log.warning("a call did not end in %g s after its caller had gone: given up", LONGEST)
        raise


def _yielding(ask: Any) -> Method:
    async def relayed(request: Any, context: Context) -> AsyncGenerator[Any]:
        call = _begin(ask, request, context)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise refusal(error) from None
        finally:
            call.cancel()

    return relayed


def _exchanging(ask: Any) -> Callable[[Line, Context], Awaitable[None]]:
    async def relayed(line: Line, context: Context) -> None:
        sending = _Sending(ask, _lines(line), context, timeout=context.time_remaining())
        owing(lambda: sending.unanswered)
        try:
            async for response in sending.call:
                sending.unanswered = False
                await line.write(response)
        except asyncio.CancelledError:
            if sending.error is not None:
                raise sending.error from None
            raise
        except grpc.aio.AioRpcError as error:
            raise refusal(error) from None
        finally:
            sending.call.cancel()

    return relayed


async def _lines(line: Line) -> AsyncGenerator[Any]:
    while (request := await line.read()) is not None:
        yield request


def refusal(error: grpc.aio.AioRpcError) -> CarouselError:
    """What the engine's process said, or that it is not there."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return from_status(status_pb2.Status.FromString(value))
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return Unavailable("the server is not there; try again", retry_after=1.0)
    return from_parts(error.code().value[0], "", error.details() or "", {})
