"""Services that other packages bring, such as health: their handlers, behind the same gate."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc_channelz.v1 import channelz as channelz_of_grpc
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from carousel.errors import CarouselError
from carousel.server.access.gate import Gate
from carousel.server.access.grant import Grant
from carousel.server.access_log import Recorder
from carousel.server.ending import abort
from carousel.server.rpc import Context, admit, admit_again, malformed

Parse = Callable[[Any], Any]
Method = Callable[..., Any]
Door = Callable[..., Awaitable[Grant]]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
CHANNELZ = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"].full_name


def add_guests(
    server: grpc.aio.Server,
    gate: Gate,
    names: Iterable[str],
    servicer: Any,
    recorder: Recorder | None = None,
    *,
    channelz: bool,
) -> None:
    """Register health, which `servicer` answers, reflection, which tells of it and of services with
    these names, and, where it is wanted, channelz. Raises NoRule."""
    guests: Any = Guests(server, gate, recorder)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, guests)
    told = [*names, HEALTH, reflection.SERVICE_NAME]
    if channelz:
        servicer_of_channels: Any = channelz_of_grpc.aio.ChannelzServicer()
        channelz_pb2_grpc.add_ChannelzServicer_to_server(servicer_of_channels, guests)
        told.append(CHANNELZ)
    register: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server  # without types
    register(reflection.aio.ReflectionServicer(told), guests)


class Guests:
    """Stands in for the server where a package registers its handlers. Raises NoRule."""

    def __init__(
        self, server: grpc.aio.Server, gate: Gate, recorder: Recorder | None = None
    ) -> None:
        self._server = server
        self._gate = gate
        self._recorder = recorder

    def add_generic_rpc_handlers(self, handlers: Iterable[object]) -> None:
        """Nothing: packages register each handler a second time, by its name."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        behind = {
            name: self._behind(f"{service}/{name}", handler) for name, handler in handlers.items()
        }
        generic = grpc.method_handlers_generic_handler(service, behind)
        self._server.add_generic_rpc_handlers((generic,))

    def _behind(self, name: str, handler: Handler) -> Handler:
        known: Any = handler
        make, method = {
            (False, False): (grpc.unary_unary_rpc_method_handler, known.unary_unary),
            (False, True): (grpc.unary_stream_rpc_method_handler, known.unary_stream),
            (True, False): (grpc.stream_unary_rpc_method_handler, known.stream_unary),
            (True, True): (grpc.stream_stream_rpc_method_handler, known.stream_stream),
        }[known.request_streaming, known.response_streaming]
        wrap = _yielding if inspect.isasyncgenfunction(method) else _returning
        parse = _each if known.request_streaming else _one
        made: Handler = make(
            wrap(method, self._door(name), parse(known.request_deserializer)),
            response_serializer=known.response_serializer,
        )
        return made

    def _door(self, name: str) -> Door:
        """Lets calls of a method in, and calls that go on; who is refused stands in the log."""
        rule = self._gate.rule(name)

        async def enter(context: Context, before: Grant | None = None) -> Grant:
            peer = context.peer()  # which can't be asked once a call has gone
            try:
                if before is not None:
                    return await admit_again(self._gate, rule, context, before)
                return await admit(self._gate, rule, context)
            except CarouselError as error:
                if self._recorder is not None:
                    self._recorder.refused(name, peer, error)
                raise

        return enter


def _one(parse: Parse) -> Parse:
    def read(request: bytes) -> Any:
        try:
            return parse(request)
        except DecodeError:
            raise malformed() from None

    return read


def _each(parse: Parse) -> Parse:
    one = _one(parse)

    async def read(requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for request in requests:
            yield one(request)

    return read


def _returning(method: Method, enter: Door, parse: Parse) -> Method:
    """Around a handler that returns its answer, or writes its answers to the context."""

    async def handle(request: Any, context: Context) -> Any:
        try:
            await enter(context)
            return await method(parse(request), context)
        except CarouselError as error:
            await abort(context, error)

    return handle


def _yielding(method: Method, enter: Door, parse: Parse) -> Method:
    async def handle(request: Any, context: Context) -> Any:
        try:
            grant = await enter(context)
            async with aclosing(method(parse(request), context)) as responses:
                async for response in responses:
                    grant = await enter(context, grant)
                    yield response
        except CarouselError as error:
            await abort(context, error)

    return handle
