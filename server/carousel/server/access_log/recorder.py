"""Records calls: a line when one is done, and for streams another when it opens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Protocol

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from carousel.errors import CarouselError
from carousel.server.access.caller import SERVER, Caller, caller_now, denied
from carousel.server.access_log.resources import Resources, resources, results
from carousel.server.access_log.writer import Entry
from carousel.server.ending import DETAILS_KEY
from carousel.server.logs import request_id, take_request_id

REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
LARGEST_REFUSED = 65_536  # bytes of a refused request that are looked at for names

# Steps are too many for a line each, and reading what there is does nothing to it. Of these calls
# those are recorded that were refused for who made them.
QUIET_SERVICE = "InferenceService"
QUIET_PREFIXES = ("Get", "List")

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[Any, Context], Any]

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Record:
    """One call, from its beginning to its end."""

    __slots__ = (
        "begin", "context", "method", "peer", "received", "request_id", "resources", "sent",
        "streams",
    )  # fmt: skip

    def __init__(self, method: MethodDescriptor, context: Context) -> None:
        self.method = f"{method.containing_service.full_name}/{method.name}"
        self.streams = method.client_streaming or method.server_streaming
        self.context = context
        # Read now: once a call is cancelled gRPC may have let go of what the context points at.
        self.peer = context.peer()
        self.request_id = take_request_id(context.invocation_metadata())
        self.begin = time.perf_counter()
        self.resources: Resources = {}
        self.received = self.sent = 0

    def entry(self, event: str, **more: Any) -> Entry:
        return _entry(event, self.method, self.peer, self.resources, self.request_id, **more)

    def end(self, code: grpc.StatusCode, reason: str) -> Entry:
        counts = {"received": self.received, "sent": self.sent} if self.streams else {}
        return self.entry(
            "close" if self.streams else "call",
            status=code.name,
            reason=reason,
            duration_ms=round((time.perf_counter() - self.begin) * 1e3, 3),
            **counts,
        )


def _entry(
    event: str,
    method: str,
    peer: str,
    resources: Resources | None = None,
    request: str = "",
    /,
    **more: Any,
) -> Entry:
    caller: Caller | None = caller_now()
    if caller is SERVER:  # the gate did not let the call in
        caller = denied.get()
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "event": event,
        "caller": None if caller is None else caller.name,
        "tenant": None if caller is None else caller.tenant,
        "method": method,
        "resources": dict(resources or {}),
        "peer": peer,
        "request_id": request_id.get() or request,
        **more,
    }


class Lines(Protocol):
    """Takes lines: a Writer, or who passes them on to one."""

    def put(self, entry: Entry) -> None: ...

    def close(self) -> None: ...


_record: ContextVar[Record] = ContextVar("record")


class Recorder:
    """Stands around the handlers of all services, at two places: `outside` of what lets a call in
    and makes a status of what it raises, and `inside` of that, where the request is known."""

    def __init__(self, writer: Lines) -> None:
        self._writer = writer

    def put(self, entry: Entry) -> None:
        """A line of a front end's."""
        self._writer.put(entry)

    def close(self) -> None:
        """Write what waits."""
        self._writer.close()

    def outside(self, method: MethodDescriptor, handle: Handler) -> Handler:
        """Sees how calls end."""
        if _is_quiet(method):
            return self._refusals(method, handle)
        one_way = method.server_streaming and not method.client_streaming
        return self._stream(method, handle) if one_way else self._call(method, handle)

    def inside(self, method: MethodDescriptor, handler: Handler) -> Handler:
        """Sees what calls are about."""
        if _is_quiet(method):
            return handler
        if method.client_streaming and method.server_streaming:
            return self._exchange(handler)
        return (
            self._responses(method, handler)
            if method.server_streaming
            else self._response(method, handler)
        )

    def refused(self, method: str, peer: str, error: CarouselError) -> None:
        """A refusal by the gate where calls have no record: the HTTP port, health, reflection."""
        if error.code in REFUSED:
            self._writer.put(
                _entry(
                    "call", method, peer, status=error.code.name, reason=error.reason,
                    duration_ms=0.0,
                )
            )  # fmt: skip

    def shut_out(self, network: str, **figures: float) -> None:
        """Who was shut out from the network."""
        self._writer.put(_entry("shut_out", "", network, **figures))

    def _refusals(self, method: MethodDescriptor, handle: Handler) -> Handler:
        async def quiet(request: Any, context: Context) -> Any:
            try:
                return await handle(request, context)
            except Exception:
                code, reason = _outcome(context)
                if code in REFUSED:
                    record = Record(method, context)
                    record.resources = _late(method, request)
                    self._writer.put(record.end(code, reason))
                raise

        return quiet

    def _call(self, method: MethodDescriptor, handle: Handler) -> Handler:
        async def recorded(request: Any, context: Context) -> Any:
            record = Record(method, context)
            _record.set(record)
            try:
                response = await handle(request, context)
            except BaseException as error:
                self._failed(record, error, method, request)
                raise
            self._writer.put(record.end(grpc.StatusCode.OK, ""))
            return response

        return recorded

    def _stream(self, method: MethodDescriptor, handle: Handler) -> Handler:
        async def recorded(request: Any, context: Context) -> AsyncGenerator[Any]:
            record = Record(method, context)
            _record.set(record)
            try:
                async with aclosing(handle(request, context)) as responses:
                    async for response in responses:
                        yield response
            except BaseException as error:
                self._failed(record, error, method, request)
                raise
            self._writer.put(record.end(grpc.StatusCode.OK, ""))

        return recorded

    def _failed(
        self, record: Record, error: BaseException, method: MethodDescriptor, request: Any
    ) -> None:
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            code, reason = grpc.StatusCode.CANCELLED, ""
        else:
            code, reason = _outcome(record.context)
        if code in REFUSED and not record.resources:
            record.resources = _late(method, request)
        self._writer.put(record.end(code, reason))

    def _response(self, method: MethodDescriptor, handler: Handler) -> Handler:
        async def noted(request: Any, context: Context) -> Any:
            response = await handler(self._request(method, request), context)
            _record.get().resources |= results(response)
            return response

        return noted

    def _exchange(self, handler: Handler) -> Handler:
        """What streams both ways names no resources."""

        async def noted(line: Any, context: Context) -> None:
            record = _record.get()
            self._writer.put(record.entry("open"))
            try:
                await handler(line, context)
            finally:
                record.received, record.sent = line.received, line.sent

        return noted

    def _responses(self, method: MethodDescriptor, handler: Handler) -> Handler:
        async def noted(request: Any, context: Context) -> AsyncGenerator[Any]:
            record = _record.get()
            async with aclosing(handler(self._request(method, request), context)) as responses:
                async for response in responses:
                    record.sent += 1
                    yield response

        return noted

    def _request(self, method: MethodDescriptor, request: Any) -> Any:
        """The request, or its stream, which is noted; of a stream that it opens."""
        record = _record.get()
        if not method.client_streaming:
            record.resources = resources(request)
            record.received = 1
        if record.streams:
            self._writer.put(record.entry("open"))
        return _noted(request, record) if method.client_streaming else request


async def _noted(requests: AsyncIterator[Message], record: Record) -> AsyncGenerator[Message]:
    async for request in requests:
        if not record.received:
            record.resources = resources(request)
        record.received += 1
        yield request


def _is_quiet(method: MethodDescriptor) -> bool:
    if method.client_streaming or method.server_streaming:
        return False
    if method.containing_service.name == QUIET_SERVICE:
        return True
    return method.name.startswith(QUIET_PREFIXES)


def _outcome(context: Context) -> tuple[grpc.StatusCode, str]:
    """The status that a call was ended with, and the reason in its details."""
    code: Any = context.code()
    reason = ""
    for key, value in context.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            info = error_details_pb2.ErrorInfo()
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    reason = info.reason
    found = code if isinstance(code, grpc.StatusCode) else _CODES.get(code)
    return found or grpc.StatusCode.UNKNOWN, reason


def _late(method: MethodDescriptor, request: Any) -> Resources:
    """What a call was about that never came in."""
    if isinstance(request, bytes) and len(request) <= LARGEST_REFUSED:
        try:
            request = message_factory.GetMessageClass(method.input_type).FromString(request)
        except DecodeError:
            return {}
    return resources(request) if isinstance(request, Message) else {}
