"""The transport of AsyncClient: one channel, every call through one door."""

# ruff: noqa: ASYNC109 - a timeout is a gRPC deadline here, which the server is told

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from typing import Any

import grpc
from google.protobuf.message import Message

from carousel.client._call import Call, Result, serialize
from carousel.client._channel import Door, Metadata, Route
from carousel.client._errors import Guard, is_refusal, translate
from carousel.client._events import Event, Link
from carousel.client._retry import ATTEMPTS, RESENT, delay
from carousel.client._trace_context import with_trace
from carousel.client._transport import SHARD_HEADER, STEP
from carousel.errors import CarouselError
from carousel.v1 import inference_service_pb2 as pb


class AsyncTransport:
    """Unary calls, streams and steps, with deadlines and errors of our own; of one event loop."""

    def __init__(self, door: Door, *, timeout: float, link: Link) -> None:
        self._route = Route(door)
        self.timeout = timeout
        self.link = link
        link.on_failure = self._follow
        self.guard = Guard(link)
        self._channel: grpc.aio.Channel | None = None
        self._former: list[grpc.aio.Channel] = []
        self._methods: dict[str, Any] = {}
        self._closed = False

    async def call(
        self, call: Call[Result], timeout: float | None, *, wait_for_ready: bool = False
    ) -> Result:
        method = self.method("unary_unary", call.path, call.reply)
        seconds = max(self.timeout, call.timeout) if timeout is None else timeout
        with self.guard:
            reply = await method(
                call.request,
                timeout=seconds,
                metadata=with_trace((*self._route.door.metadata, *call.metadata)),
                wait_for_ready=wait_for_ready,
            )
        return call.decode(reply)

    async def step(
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
        metadata = with_trace(self.metadata(shard))
        clock = asyncio.get_running_loop().time
        end = clock() + (self.timeout if timeout is None else timeout)
        attempt = 0
        while True:
            method = self.method("unary_unary", STEP, pb.StepResponse)
            try:
                reply: pb.StepResponse = await method(
                    request, timeout=end - clock(), metadata=metadata
                )
            except grpc.RpcError as error:
                ours = translate(error, self.link.tls)
                self.link.saw(ours)
                attempt, wait = attempt + 1, delay(attempt + 1)
                late = clock() + wait >= end
                spent = late or (attempt >= ATTEMPTS and not patient)
                if spent or is_refusal(error) or error.code() not in RESENT:
                    raise ours from error
            else:
                if not self.link.up:
                    self.link.answered()
                return reply
            self.link.tell(Event("retry", attempt=attempt, delay=wait, error=ours))
            await asyncio.sleep(wait)

    def stream(self, path: str, request: Message, reply: type[Message], *, timeout: float) -> Any:
        """A call with a stream of answers."""
        method = self.method("unary_stream", path, reply)
        return method(request, timeout=timeout, metadata=with_trace(self._route.door.metadata))

    async def exhaust(
        self, path: str, request: Message, reply: type[Message], *, timeout: float
    ) -> None:
        """The same for its effect alone, to its end."""
        call = self.stream(path, request, reply, timeout=timeout)
        while await self.read(call) is not None:
            pass

    async def upload(
        self, path: str, parts: AsyncIterable[Message], reply: type[Message], *, timeout: float
    ) -> Any:
        method = self.method("stream_unary", path, reply)
        with self.guard:
            return await method(
                parts, timeout=timeout, metadata=with_trace(self._route.door.metadata)
            )

    async def read(self, call: Any) -> Any:
        """The next answer of a stream; None at its end."""
        with self.guard:
            response = await call.read()
        return None if response is grpc.aio.EOF else response

    async def close(self) -> None:
        self._closed = True
        for channel in (*self._former, self._channel):
            if channel is not None:
                await channel.close()

    def _follow(self, error: CarouselError) -> None:
        """Go where a server that is going sends its callers, and back when nobody is there."""
        if self._closed or not self._route.leads_elsewhere_after(error):
            return
        if self._channel is not None:
            self._former.append(self._channel)  # calls of others go on in it
        self._methods, self._channel = {}, None
        self.link.tell(Event("moved", error=error))

    def metadata(self, shard: int) -> Metadata:
        """Of a call with steps for sessions of this shard."""
        return (*self._route.door.metadata, (SHARD_HEADER, str(shard)))

    def method(self, kind: str, path: str, reply: type[Message]) -> Any:
        if self._closed:
            raise RuntimeError("the client is closed")
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = getattr(self._open(), kind)(
                f"/{path}",
                request_serializer=serialize,
                response_deserializer=reply.FromString,
            )
        return method

    def _open(self) -> grpc.aio.Channel:
        """The channel belongs to the loop that runs when the first call is made."""
        if self._channel is None:
            target, credentials, options = (
                self._route.door.target,
                self._route.door.credentials,
                self._route.door.options,
            )
            if credentials is None:
                self._channel = grpc.aio.insecure_channel(target, options)
            else:
                self._channel = grpc.aio.secure_channel(target, credentials, options)
        return self._channel
