"""How services hang on the gRPC server: errors, counts and logs around every handler, made once.

grpc.aio's own interceptors run again for every call; these wrappers are made at registration.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from carousel.errors import CarouselError, InternalError, InvalidField, to_status
from carousel.server.logs import request_id, take_request_id
from carousel.server.metrics import Metrics

log = logging.getLogger("carousel.rpc")

DETAILS_KEY = "grpc-status-details-bin"
HOT = frozenset({"Step", "StreamSteps", "StepStates"})  # called too often to log each

# In place of a request that could not be parsed: gRPC itself would answer UNKNOWN.
MALFORMED = object()

Context = grpc.aio.ServicerContext[Any, Any]


class Call:
    """The counts of one method."""

    def __init__(self, service: str, method: MethodDescriptor, metrics: Metrics) -> None:
        kind = ("unary", "client_stream", "server_stream", "bidi_stream")[
            method.client_streaming + 2 * method.server_streaming
        ]
        labels = (kind, service, method.name)
        self.name = f"{service}/{method.name}"
        self.hot = method.name in HOT
        self.started = metrics.rpc_started.labels(*labels)
        self.received = metrics.rpc_received.labels(*labels)
        self.sent = metrics.rpc_sent.labels(*labels)
        self.seconds = metrics.rpc_seconds.labels(*labels)
        self._handled = {
            code: metrics.rpc_handled.labels(*labels, code.name) for code in grpc.StatusCode
        }

    def done(self, code: grpc.StatusCode, begin: float) -> None:
        seconds = time.perf_counter() - begin
        self._handled[code].inc()
        self.seconds.observe(seconds)
        if not self.hot:
            log.info("%s %s %.1f ms", self.name, code.name, seconds * 1e3)


async def fail(context: Context, error: Exception, call: Call, begin: float) -> None:
    """Turn what a handler raised into a status with its details; does not return."""
    if not isinstance(error, CarouselError):
        if not request_id.get():
            request_id.set(take_request_id(context.invocation_metadata()))
        log.error("%s failed", call.name, exc_info=error)
        error = InternalError(f"a fault of the server; its log has request {request_id.get()}")
    call.done(error.code, begin)
    details = to_status(error).SerializeToString()
    await context.abort(error.code, error.message, ((DETAILS_KEY, details),))


def _unary(
    method: Callable[[Any, Context], Awaitable[Any]], call: Call, *, streams_in: bool
) -> Callable[[Any, Context], Awaitable[Any]]:
    async def handle(request: Any, context: Context) -> Any:
        call.started.inc()
        begin = time.perf_counter()
        if streams_in:
            request = _counted(request, call)
        else:
            call.received.inc()
        if not call.hot:
            request_id.set(take_request_id(context.invocation_metadata()))
        try:
            if request is MALFORMED:
                raise _malformed()
            response = await method(request, context)
        except asyncio.CancelledError:
            call.done(grpc.StatusCode.CANCELLED, begin)
            raise
        except Exception as error:
            await fail(context, error, call, begin)
        else:
            call.sent.inc()
            call.done(grpc.StatusCode.OK, begin)
            return response

    return handle


def _streaming(
    method: Callable[[Any, Context], AsyncIterator[Any]], call: Call, *, streams_in: bool
) -> Callable[[Any, Context], AsyncIterator[Any]]:
    async def handle(request: Any, context: Context) -> AsyncIterator[Any]:
        call.started.inc()
        begin = time.perf_counter()
        request_id.set(take_request_id(context.invocation_metadata()))
        if streams_in:
            request = _counted(request, call)
        else:
            call.received.inc()
        try:
            if request is MALFORMED:
                raise _malformed()
            async for response in method(request, context):
                call.sent.inc()
                yield response
        except (asyncio.CancelledError, GeneratorExit):
            call.done(grpc.StatusCode.CANCELLED, begin)
            raise
        except Exception as error:
            await fail(context, error, call, begin)
        else:
            call.done(grpc.StatusCode.OK, begin)

    return handle


async def _counted(requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
    async for request in requests:
        call.received.inc()
        if request is MALFORMED:
            raise _malformed()
        yield request


def _malformed() -> InvalidField:
    return InvalidField("the request is no message of this method's type")


def _parser(message: type[Message]) -> Callable[[bytes], Any]:
    parse = message.FromString

    def read(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return MALFORMED

    return read


def add_service(
    server: grpc.aio.Server, service: ServiceDescriptor, servicer: object, metrics: Metrics
) -> None:
    """Register `servicer`, which has an async method for each RPC of the service."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in service.methods:
        call = Call(service.full_name, method, metrics)
        wrap = _streaming if method.server_streaming else _unary
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[method.client_streaming, method.server_streaming]
        handlers[method.name] = make(
            wrap(getattr(servicer, method.name), call, streams_in=method.client_streaming),
            request_deserializer=_parser(message_factory.GetMessageClass(method.input_type)),
            response_serializer=message_factory.GetMessageClass(
                method.output_type
            ).SerializeToString,
        )
    generic = grpc.method_handlers_generic_handler(service.full_name, handlers)
    server.add_generic_rpc_handlers((generic,))
