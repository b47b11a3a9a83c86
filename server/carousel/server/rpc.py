"""How services hang on the gRPC server: the gate, errors, counts and logs around every handler.

grpc.aio's own interceptors run again for every call; these wrappers are made at registration.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from carousel.errors import (
    CarouselError,
    InternalError,
    InvalidField,
    Unauthenticated,
)
from carousel.server import one_step, receipts
from carousel.server.access import caller
from carousel.server.access.gate import Gate
from carousel.server.access.grant import Grant
from carousel.server.access_log import Recorder
from carousel.server.ending import abort
from carousel.server.flow import Flow, Flows, ended, sent
from carousel.server.hot_calls import Handlers
from carousel.server.limits import ConnectionLimits
from carousel.server.logs import REQUEST_ID_KEY, request_id, take_request_id
from carousel.server.one_step import OneStep
from carousel.server.rpc_metrics import RpcMetrics
from carousel.server.tracing.trace import NO_TRACER, Trace, Tracer
from carousel.v1 import inference_service_pb2 as pb

log = logging.getLogger("carousel.rpc")

HOT = frozenset({"Step", "StreamSteps", "StepStates"})  # called too often to log each
# Many at a time: see HotCalls. Forks that are asked for again must come in their order.
TAKEN_UP = HOT | {"CreateSession", "DeleteSession"}

USUAL: dict[type[Message], Callable[[bytes], OneStep | None]] = {
    pb.StepRequest: one_step.read,
    pb.StreamStepsRequest: one_step.read_streamed,
}
"""What reads the usual messages of a type."""

# Those that alerts and rates ask for are there from the start; others when they first happen, since
# all that gRPC has would be every third sample of a server.
COUNTED = (
    grpc.StatusCode.OK,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE,
)

Context = grpc.aio.ServicerContext[Any, Any]


class Call:
    """The counts of one method, who traces its calls, and who lets them in. Raises NoRule."""

    def __init__(
        self,
        service: str,
        method: MethodDescriptor,
        metrics: RpcMetrics,
        tracer: Tracer,
        gate: Gate,
        flows: Flows,
        *,
        logged: bool,
    ) -> None:
        kind = ("unary", "client_stream", "server_stream", "bidi_stream")[
            method.client_streaming + 2 * method.server_streaming
        ]
        labels = (kind, service, method.name)
        self.name = f"{service}/{method.name}"
        self.hot = method.name in HOT
        self.by_grpc = method.name not in TAKEN_UP
        self.logged = logged and not self.hot
        self.tracer = tracer
        self.gate = gate
        self.kind = kind
        self.flows = flows
        self.rule = gate.rule(self.name)
        self.parse = parser(message_factory.GetMessageClass(method.input_type))
        self.started = metrics.rpc_started.labels(*labels)
        self.received = metrics.rpc_received.labels(*labels)
        self.sent = metrics.rpc_sent.labels(*labels)
        self.seconds = metrics.rpc_seconds.labels(*labels)
        self._labels = labels
        self._all_handled = metrics.rpc_handled
        self._handled = {code: metrics.rpc_handled.labels(*labels, code.name) for code in COUNTED}

    def done(self, code: grpc.StatusCode, begin: float, trace: Trace, *, reason: str = "") -> None:
        seconds = time.perf_counter() - begin
        if code not in self._handled:
            self._handled[code] = self._all_handled.labels(*self._labels, code.name)
        self._handled[code].count += 1
        self.seconds.observe(seconds)
        if self.logged:
            log.info("%s %s %.1f ms", self.name, code.name, seconds * 1e3)
        trace.end(code, reason=reason)


async def admit(gate: Gate, rule: str, context: Context) -> Grant:
    """Let a call in: from now on it is its caller's. Raises what the gate does."""
    grant = await gate.admit(rule, context)
    caller.current.set(grant.caller)
    return grant


async def admit_again(gate: Gate, rule: str, context: Context, grant: Grant) -> Grant:
    """The grant of a stream that goes on: another, once the former no longer holds.

    Raises Unauthenticated when its credential has expired or was withdrawn.
    """
    if grant.holds(time.time()):
        return grant
    again = await gate.admit(rule, context)
    if again.caller != grant.caller:
        raise Unauthenticated("the credential has changed; open the stream again")
    return again


def identify(context: Context) -> str:
    """The call's id for the logs, which its caller finds in the trailers."""
    own = take_request_id(context.invocation_metadata())
    request_id.set(own)
    context.set_trailing_metadata(((REQUEST_ID_KEY, own),))
    return own


async def fail(context: Context, error: Exception, call: Call, begin: float, trace: Trace) -> None:
    """Turn what a handler raised into a status with its details; does not return."""
    own = request_id.get() or identify(context)
    if not isinstance(error, CarouselError):
        log.error("%s failed", call.name, exc_info=error)
        error = InternalError(f"a fault of the server; its log has request {own}")
    call.done(error.code, begin, trace, reason=error.reason)
    await abort(context, error, ((REQUEST_ID_KEY, own),))


async def cancelled(
    context: Context, flow: Flow | None, call: Call, begin: float, trace: Trace
) -> None:
    """The handler was cancelled: by its caller, or by us who cut the stream; then this says so."""
    if flow is None or flow.cut is None:
        left = context.time_remaining()
        call.flows.lost += left is None or left > 0
        call.done(grpc.StatusCode.CANCELLED, begin, trace)
    elif flow.writing:  # whoever cut it ends the call too
        call.done(flow.cut.code, begin, trace, reason=flow.cut.reason)
    else:
        await fail(context, flow.cut, call, begin, trace)


def _unary(
    method: Callable[[Any, Context], Awaitable[Any]], call: Call
) -> Callable[[Any, Context], Awaitable[Any]]:
    async def handle(request: Any, context: Context) -> Any:
        call.started.count += 1
        call.flows.begun += call.by_grpc
        begin = time.perf_counter()
        trace = call.tracer.begin(call.name, context)
        if not call.hot:
            caller.peer_now.set(context.peer())
            identify(context)
        try:
            await admit(call.gate, call.rule, context)
            call.received.count += 1
            response = await method(call.parse(request), context)
        except asyncio.CancelledError:
            await cancelled(context, None, call, begin, trace)
            raise
        except Exception as error:
            await fail(context, error, call, begin, trace)
        else:
            call.sent.count += 1
            call.done(grpc.StatusCode.OK, begin, trace)
            return response

    return handle


@asynccontextmanager
async def _flowing(call: Call, context: Context) -> AsyncIterator[Flow]:
    """Around what handles a stream: it is counted and traced, and its end is told."""
    call.started.count += 1
    call.flows.begun += call.by_grpc
    begin = time.perf_counter()
    trace = call.tracer.begin(call.name, context)
    caller.peer_now.set(context.peer())
    identify(context)
    flow = call.flows.begin(call.kind, context)
    try:
        yield flow
    except (asyncio.CancelledError, GeneratorExit):
        await cancelled(context, flow, call, begin, trace)
        raise
    except Exception as error:
        await fail(context, error, call, begin, trace)
    else:
        call.done(grpc.StatusCode.OK, begin, trace)
    finally:
        call.flows.end(flow)


def _gathering(
    method: Callable[[Any, Context], Awaitable[Any]], call: Call
) -> Callable[[Any, Context], Awaitable[Any]]:
    async def handle(requests: AsyncIterator[bytes], context: Context) -> Any:
        async with _flowing(call, context) as flow:
            grant = await admit(call.gate, call.rule, context)
            response = await method(_messages(flow.read(requests), call, context, grant), context)
            call.sent.count += 1
        return response

    return handle


def _streaming(
    method: Callable[[Any, Context], AsyncGenerator[Any]], call: Call
) -> Callable[[Any, Context], AsyncIterator[Any]]:
    async def handle(request: Any, context: Context) -> AsyncIterator[Any]:
        async with _flowing(call, context) as flow:
            grant = await admit(call.gate, call.rule, context)
            call.received.count += 1
            async with aclosing(method(call.parse(request), context)) as responses:
                async for response in responses:
                    grant = await admit_again(call.gate, call.rule, context, grant)
                    call.sent.count += 1
                    await flow.write()
                    yield response
                    flow.written()

    return handle


def _exchange(
    method: Callable[[Line, Context], Awaitable[None]], call: Call
) -> Callable[[Any, Context], Awaitable[None]]:
    async def handle(_: object, context: Context) -> None:
        async with _flowing(call, context) as flow:
            grant = await admit(call.gate, call.rule, context)
            await method(Line(call, context, flow, grant), context)

    return handle


class Line:
    """Both directions of one stream, for its handler: what `received` and `sent` count.

    In place of generators within generators, of which each message would wake every one.
    """

    def __init__(self, call: Call, context: Context, flow: Flow, grant: Grant) -> None:
        self.received = self.sent = 0
        self._call = call
        self._context = context
        self._flow = flow
        self._grant = grant

    async def read(self) -> Any:
        """The next request; None when there are no more."""
        flow = self._flow
        flow.reading = time.monotonic()
        data: Any = await self._context.read()
        flow.reading = 0.0
        if data is grpc.aio.EOF:
            await ended(self._context)
            return None
        call = self._call
        if not self._grant.holds(time.time()):
            await self._admit_again()
        call.received.count += 1
        self.received += 1
        return call.parse(data)

    async def write(self, response: object) -> None:
        """Returns when the caller has room for the next one. Raises CancelledError."""
        if not self._grant.holds(time.time()):
            await self._admit_again()
        self._call.sent.count += 1
        self.sent += 1
        await self._flow.write()
        await sent(self._context.write(response))
        self._flow.written()

    async def _admit_again(self) -> None:
        call = self._call
        self._grant = await admit_again(call.gate, call.rule, self._context, self._grant)


WAYS: dict[tuple[bool, bool], tuple[Callable[..., Any], Callable[..., Any]]] = {
    (False, False): (_unary, grpc.unary_unary_rpc_method_handler),
    (True, False): (_gathering, grpc.stream_unary_rpc_method_handler),
    (False, True): (_streaming, grpc.unary_stream_rpc_method_handler),
    (True, True): (_exchange, grpc.stream_stream_rpc_method_handler),
}
"""By whether requests stream, and answers: what wraps a method, and what makes gRPC's handler."""


async def _messages(
    requests: AsyncIterator[bytes], call: Call, context: Context, grant: Grant
) -> AsyncIterator[Any]:
    """The messages of a stream, for as long as its caller's credential holds."""
    async for request in requests:
        grant = await admit_again(call.gate, call.rule, context, grant)
        call.received.count += 1
        yield call.parse(request)


def parser(message: type[Message]) -> Callable[[bytes], Any]:
    """Parses a request, once its caller was let in; gRPC itself would do it before."""
    parse = message.FromString
    usual = USUAL.get(message)

    def read(data: bytes) -> Any:
        try:
            return (usual and usual(data)) or parse(data)
        except DecodeError:
            raise malformed() from None

    return read


def malformed() -> InvalidField:
    """For what gRPC itself would answer with UNKNOWN."""
    return InvalidField("the request is no message of this method's type")


def serializer(message: type[Message]) -> Callable[[Any], bytes]:
    """Writes messages of a type, if they are not bytes already."""
    serialize = message.SerializeToString

    def write(response: Any) -> bytes:
        return response if isinstance(response, bytes) else serialize(response)

    return write


def add_service(
    server: grpc.aio.Server,
    service: ServiceDescriptor,
    servicer: object,
    metrics: RpcMetrics,
    gate: Gate,
    tracer: Tracer = NO_TRACER,
    recorder: Recorder | None = None,
    *,
    flows: Flows | None = None,
    logged: bool = True,
    for_front_ends: bool = False,
) -> Handlers:
    """Register `servicer`, which has an async method for each RPC of the service.

    Front ends give receipts for what is made. Gives by their paths the handlers of those methods
    whose calls HotCalls is to take up. Raises NoRule.
    """
    handlers: Handlers = {}
    if flows is None:
        flows = Flows(ConnectionLimits.model_construct(), metrics)  # which nobody looks at
    for method in service.methods:
        call = Call(service.full_name, method, metrics, tracer, gate, flows, logged=logged)
        wrap, make = WAYS[method.client_streaming, method.server_streaming]
        own = getattr(servicer, method.name)
        if recorder is not None:
            own = recorder.inside(method, own)
        handle = wrap(own, call)
        if recorder is not None:
            handle = recorder.outside(method, handle)
        if for_front_ends and method.name in receipts.NEEDED:
            handle, make = receipts.awaited(handle), grpc.stream_stream_rpc_method_handler
        handlers[method.name] = make(
            handle,
            response_serializer=serializer(message_factory.GetMessageClass(method.output_type)),
        )
    taken_up = {name: handlers.pop(name) for name in TAKEN_UP & handlers.keys()}
    server.add_registered_method_handlers(service.full_name, taken_up)
    generic = grpc.method_handlers_generic_handler(service.full_name, handlers)
    server.add_generic_rpc_handlers((generic,))
    return {f"/{service.full_name}/{name}": handler for name, handler in taken_up.items()}
