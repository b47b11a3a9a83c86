"""The transport of Client: one channel, every call through one door."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
from google.protobuf.message import Message

from carousel.client._call import Call, Result, serialize
from carousel.client._channel import Door, Route
from carousel.client._errors import Guard, is_refusal, translate
from carousel.client._events import Event, Link
from carousel.client._retry import ATTEMPTS, RESENT, delay
from carousel.client._trace_context import with_trace
from carousel.errors import CarouselError
from carousel.v1 import inference_service_pb2 as pb

STEP = "carousel.v1.InferenceService/Step"
SHARD_HEADER = "x-carousel-shard"


def open_channel(door: Door) -> grpc.Channel:
    if door.credentials is None:
        return grpc.insecure_channel(door.target, door.options)
    return grpc.secure_channel(door.target, door.credentials, door.options)


class Transport:
    """Unary calls, streams and steps, with deadlines and errors of our own. Safe to share."""

    def __init__(self, door: Door, *, timeout: float, link: Link) -> None:
        self._route = Route(door)
        self._channels = [open_channel(door)]
        self._moving = threading.Lock()
        self.timeout = timeout
        self._metadata = door.metadata
        self.link = link
        link.on_failure = self._follow
        self.guard = Guard(link)
        self._methods: dict[str, Any] = {}
        self._closed = False

    def _follow(self, error: CarouselError) -> None:
        """Go where a server that is going sends its callers, and back when nobody is there."""
        with self._moving:
            if self._closed or not self._route.leads_elsewhere_after(error):
                return
            for channel in self._channels[:-1]:
                channel.close()
            # Calls of others go on in the one that was left just now.
            self._channels = [self._channels[-1], open_channel(self._route.door)]
            self._methods = {}
        self.link.tell(Event("moved", error=error))

    def call(
        self, call: Call[Result], timeout: float | None, *, wait_for_ready: bool = False
    ) -> Result:
        method = self._method("unary_unary", call.path, call.reply)
        seconds = max(self.timeout, call.timeout) if timeout is None else timeout
        with self.guard:
            reply = method(
                call.request,
                timeout=seconds,
                metadata=with_trace((*self._metadata, *call.metadata)),
                wait_for_ready=wait_for_ready,
            )
        return call.decode(reply)

    def step(
        self,
        request: pb.StepRequest,
        *,
        shard: int,
        timeout: float | None,
        patient: bool = False,
    ) -> pb.StepResponse:
        """Send steps until their outcome is known, or the attempts or the time are used up.

        With `patient` only the time counts: the sessions survive their server.
        """
        metadata = with_trace((*self._metadata, (SHARD_HEADER, str(shard))))
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        attempt = 0
        while True:
            method = self._method("unary_unary", STEP, pb.StepResponse)
            try:
                reply: pb.StepResponse = method(
                    request, timeout=end - time.monotonic(), metadata=metadata
                )
            except grpc.RpcError as error:
                ours = translate(error, self.link.tls)
                self.link.saw(ours)
                attempt, wait = attempt + 1, delay(attempt + 1)
                late = time.monotonic() + wait >= end
                spent = late or (attempt >= ATTEMPTS and not patient)
                if spent or is_refusal(error) or error.code() not in RESENT:
                    raise ours from error
            else:
                if not self.link.up:
                    self.link.answered()
                return reply
            self.link.tell(Event("retry", attempt=attempt, delay=wait, error=ours))
            time.sleep(wait)

    def stream(self, path: str, request: Message, reply: type[Message], *, timeout: float) -> Any:
        """A call with a stream of answers."""
        method = self._method("unary_stream", path, reply)
        return method(request, timeout=timeout, metadata=with_trace(self._metadata))

    def exhaust(self, path: str, request: Message, reply: type[Message], *, timeout: float) -> None:
        """The same for its effect alone, to its end."""
        call = self.stream(path, request, reply, timeout=timeout)
        while self.read(call) is not None:
            pass

    def upload(
        self, path: str, parts: Iterable[Message], reply: type[Message], *, timeout: float
    ) -> Any:
        method = self._method("stream_unary", path, reply)
        with self.guard:
            return method(iter(parts), timeout=timeout, metadata=with_trace(self._metadata))

    def read(self, call: Iterator[Any]) -> Any:
        """The next answer of a stream; None at its end."""
        with self.guard:
            return next(call, None)

    def close(self) -> None:
        self._closed = True
        for channel in self._channels:
            channel.close()

    def _method(self, kind: str, path: str, reply: type[Message]) -> Any:
        if self._closed:
            raise RuntimeError("the client is closed")
        methods = self._methods
        method = methods.get(path)
        if method is None:
            method = methods[path] = getattr(self._channels[-1], kind)(
                f"/{path}",
                request_serializer=serialize,
                response_deserializer=reply.FromString,
            )
        return method
