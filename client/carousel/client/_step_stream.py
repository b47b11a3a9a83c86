"""A stream of steps that is opened when there is something to send, and again when it breaks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc

from carousel.client._async_transport import AsyncTransport
from carousel.client._errors import is_refusal, may_go_better, translate
from carousel.client._events import Event
from carousel.client._retry import ATTEMPTS, RESENT, delay
from carousel.client._trace_context import with_trace
from carousel.errors import CarouselError, InternalError, ServerUnreachable, Unavailable
from carousel.v1 import inference_service_pb2 as pb

PATH = "carousel.v1.InferenceService/StreamSteps"


class StepStream:
    """Sends messages, hands every answer to `take`, and sends again what a broken stream lost.

    `unanswered` gives messages for all that was sent and not answered. `give_up` is called when
    attempt after attempt brought no answer at all, and says whether somebody waits nevertheless.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        shard: int,
        *,
        take: Callable[[pb.StepResponse], None],
        unanswered: Callable[[], list[pb.StreamStepsRequest]],
        give_up: Callable[[CarouselError], bool],
    ) -> None:
        self._transport = transport
        self._metadata = transport.metadata(shard)
        self._take = take
        self._unanswered = unanswered
        self._give_up = give_up
        self._outbox: deque[pb.StreamStepsRequest] = deque()
        self._outbox_filled = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._failures = 0  # in a row

    def send(self, messages: list[pb.StreamStepsRequest]) -> None:
        self._outbox.extend(messages)
        self._outbox_filled.set()
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)

    async def _run(self) -> None:
        """Keep a stream until it breaks while nothing is on its way."""
        self._failures = 0
        try:
            while await self._try_again(await self._broken()):
                self._outbox.clear()
                self._outbox.extend(self._unanswered())
        finally:
            self._outbox.clear()
            self._runner = None

    async def _broken(self) -> tuple[CarouselError, bool]:
        """Run one stream to its end: how it ended, and whether another may go better."""
        try:
            await self._converse()
            return ServerUnreachable("the server ended the stream of steps"), True
        except grpc.RpcError as failure:
            error = translate(failure, self._transport.link.tls)
            error.__cause__ = failure
            if may_go_better(error) and not isinstance(error, Unavailable):
                # gRPC's own words: whoever survives a server waits for the next one all the same.
                error = ServerUnreachable(f"the stream of steps broke: {error.message}")
                error.__cause__ = failure
            return error, failure.code() in RESENT and not is_refusal(failure)
        except Exception as failure:
            # An answer that makes no sense: nobody must wait for the rest of it.
            error = InternalError(f"the stream of steps could not be read: {failure}")
            error.__cause__ = failure
            return error, False

    async def _try_again(self, end: tuple[CarouselError, bool]) -> bool:
        error, may_go_better = end
        self._transport.link.saw(error)
        if not self._unanswered():
            return False
        self._failures += 1
        if not may_go_better or self._failures >= ATTEMPTS:
            patient = self._give_up(error)
            if not may_go_better or not patient:
                return False
        wait = delay(self._failures)
        event = Event("retry", attempt=self._failures, delay=wait, error=error)
        self._transport.link.tell(event)
        await asyncio.sleep(wait)
        return True

    async def _converse(self) -> None:
        """One stream, from its opening to its end."""
        method = self._transport.method("stream_stream", PATH, pb.StreamStepsResponse)
        # The stream is everybody's; it belongs to the trace of whoever opened it.
        call = method(metadata=with_trace(self._metadata))
        writer = asyncio.create_task(self._write(call))
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                self._failures = 0
                if not self._transport.link.up:
                    self._transport.link.answered()
                self._take(response.step)
        finally:
            call.cancel()
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)  # the reader knows better

    async def _write(self, call: Any) -> None:
        while True:
            while self._outbox:
                await call.write(self._outbox.popleft())
            self._outbox_filled.clear()
            await self._outbox_filled.wait()
