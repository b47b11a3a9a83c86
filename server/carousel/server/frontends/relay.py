"""The relay: calls that a front end let in go on to the engine's process, and its answers back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.rpc import status_pb2

from carousel.errors import CarouselError, Unavailable, from_parts, from_status
from carousel.server import one_step
from carousel.server.ending import DETAILS_KEY
from carousel.server.flow import owing
from carousel.server.frontends.forwarded import forwarded
from carousel.server.one_step import OneStep
from carousel.server.rpc import Line

Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[[Any, Context], Any]


class Relay:
    """Has a method for each RPC of a service, which asks the engine's process.

    What a subclass answers itself is not relayed.
    """

    def __init__(self, channel: grpc.aio.Channel, service: ServiceDescriptor) -> None:
        for method in service.methods:
            if not hasattr(self, method.name):
                setattr(self, method.name, _method(channel, method))


def _method(channel: grpc.aio.Channel, method: MethodDescriptor) -> Method:
    kind = ("unary" if not method.client_streaming else "stream") + (
        "_unary" if not method.server_streaming else "_stream"
    )
    ask = getattr(channel, kind)(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=_bytes_of_streamed if kind == "stream_stream" else _bytes_of,
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    if kind == "stream_stream":
        return _exchanging(ask)
    if method.server_streaming:
        return _yielding(ask)
    return _returning(ask, streams_in=method.client_streaming)


def _bytes_of(request: OneStep | Message) -> bytes:
    return request.message if isinstance(request, OneStep) else request.SerializeToString()


def _bytes_of_streamed(request: OneStep | Message) -> bytes:
    return (
        one_step.streamed(request.message) if isinstance(request, OneStep) else _bytes_of(request)
    )


class _Requests:
    """A stream of requests on its way: what breaks it off is the call's end, not gRPC's matter."""

    def __init__(self, requests: AsyncIterator[Any]) -> None:
        self._requests = requests
        self.call: Any = None
        self.error: Exception | None = None
        self.unanswered = False

    async def each(self) -> AsyncGenerator[Any]:
        try:
            async for request in self._requests:
                self.unanswered = True
                yield request
        except Exception as error:
            self.error = error
            self.call.cancel()


def _begin(ask: Any, request: Any, context: Context, *, streams_in: bool) -> tuple[Any, Any]:
    """The call, and its requests where they are a stream."""
    given = {"metadata": forwarded(context), "timeout": context.time_remaining()}
    if not streams_in:
        return ask(request, **given), None
    requests = _Requests(request)
    requests.call = ask(requests.each(), **given)
    return requests.call, requests


def _returning(ask: Any, *, streams_in: bool) -> Method:
    async def relayed(request: Any, context: Context) -> Any:
        call, requests = _begin(ask, request, context, streams_in=streams_in)
        try:
            return await call
        except asyncio.CancelledError:
            call.cancel()
            if requests is not None and requests.error is not None:
                raise requests.error from None
            raise
        except grpc.aio.AioRpcError as error:
            raise refusal(error) from None

    return relayed


def _yielding(ask: Any) -> Method:
    async def relayed(request: Any, context: Context) -> AsyncGenerator[Any]:
        call, _ = _begin(ask, request, context, streams_in=False)
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
        call, requests = _begin(ask, _lines(line), context, streams_in=True)
        owing(lambda: requests.unanswered)
        try:
            async for response in call:
                requests.unanswered = False
                await line.write(response)
        except asyncio.CancelledError:
            if requests.error is not None:
                raise requests.error from None
            raise
        except grpc.aio.AioRpcError as error:
            raise refusal(error) from None
        finally:
            call.cancel()

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
