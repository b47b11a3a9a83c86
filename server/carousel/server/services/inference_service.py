"""InferenceService: steps, streams of steps, whole sequences, generation, traces."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping, Sequence

from carousel.errors import CarouselError, QueueFull
from carousel.server import generation, item_errors, one_step, sequences, steps
from carousel.server.broken_streams import BrokenStreams
from carousel.server.flow import owing
from carousel.server.hall import Hall
from carousel.server.held.steps import HeldSteps
from carousel.server.loaded import LoadedVersion
from carousel.server.logs import request_id
from carousel.server.one_step import OneStep
from carousel.server.refused import Refused
from carousel.server.rpc import Context, Line
from carousel.server.tenants import caller_of, origin_of, tenant_of
from carousel.server.work import NEVER, Answer, Work
from carousel.v1 import inference_service_pb2 as pb

Request = pb.StepRequest | OneStep

STREAM_WINDOW = 65_536  # items of one stream on their way, above which it is not read further
STREAM_ANSWERS = 64  # messages that wait for a slow reader, above which it is not read further
STREAM_BYTES = 64 * 2**20  # of chunks and inputs on their way, or of answers that wait: the same


def deadline_of(context: Context) -> float:
    """The caller's deadline on the clock of time.monotonic."""
    remaining = context.time_remaining()
    return NEVER if remaining is None else time.monotonic() + remaining


class Reply:
    """Collects the answers to one work until all of its items have one."""

    __slots__ = ("answers", "future", "left")

    def __init__(self) -> None:
        self.future: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        self.answers: list[Answer] = []
        self.left = 0

    def deliver(self, answer: Answer) -> None:
        self.answers.append(answer)
        self.left -= len(answer.items) + len(answer.errors)
        if self.left <= 0 and not self.future.done():
            self.future.set_result(self.answers)


class Stream:
    """The answers of one stream, coalesced: what one turn finished goes out as one message."""

    def __init__(self, tenant: str, origin: Mapping[str, str] | None) -> None:
        self.tenant = tenant
        self.origin = origin
        self.latest: Sequence[int] = ()  # handles of the last message
        self._messages: deque[bytes] = deque()
        self._more: asyncio.Future[None] | None = None  # whoever waits for the next message
        self.flying = 0
        self.flying_bytes = 0
        self.waiting_bytes = 0  # of answers
        self.calm = asyncio.Event()
        self.calm.set()
        self.half_closed = False
        self.drained = False
        self.ended = False
        self.refused = Refused(self.put)
        self._answers: list[Answer] = []
        self._left: dict[Work, int] = {}
        self._bytes: dict[Work, int] = {}  # that each of these takes
        self._loop = asyncio.get_running_loop()

    def expect(self, work: Work, output_size: int) -> None:
        self._left[work] = len(work)
        self._bytes[work] = work.inputs.nbytes
        if work.lengths is not None:  # chunks gather their outputs on the way
            self._bytes[work] += work.outputs_wanted * output_size * 4
        self.flying += len(work)
        self.flying_bytes += self._bytes[work]
        self._look()

    def deliver(self, answer: Answer) -> None:
        if not self._answers:
            self._loop.call_soon(self._flush)
        self._answers.append(answer)
        done = len(answer.items) + len(answer.errors)
        self.flying -= done
        self._left[answer.work] -= done
        if not self._left[answer.work]:
            del self._left[answer.work]
            self.flying_bytes -= self._bytes.pop(answer.work)

    def put(self, response: steps.Response) -> None:
        if not isinstance(response, bytes):
            response = response.SerializeToString()
        message = one_step.streamed(response)
        self.waiting_bytes += len(message)
        self._messages.append(message)
        self._wake()
        self._look()

    async def next(self) -> bytes | None:
        """The next message for the caller; None after the last one."""
        while not self._messages:
            if self.ended:
                return None
            self._more = self._loop.create_future()
            await self._more
        return self._messages.popleft()

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    def half_close(self) -> None:
        """No more requests: the stream ends after the last answer."""
        self.half_closed = True
        self.refused.tell()
        self._end_if_done()

    def drain(self) -> None:
        """The server is going: take nothing more, finish what was sent, then say so."""
        self.drained = True
        self.half_close()

    def unfinished(self) -> list[int]:
        """Handles whose steps, or whose last answer, may not have come to the caller."""
        return [handle for work in self._left for handle in work.handles] + list(self.latest)

    def cancel(self) -> None:
        """The caller is gone: what has not been committed vanishes."""
        for work in self._left:
            work.cancelled = True

    def sent(self, message: bytes) -> None:
        self.waiting_bytes -= len(message)
        self._look()

    def _flush(self) -> None:
        answers, self._answers = self._answers, []
        by_width: dict[int, list[Answer]] = {}  # models of different outputs share the stream
        for answer in answers:
            by_width.setdefault(answer.outputs.shape[1], []).append(answer)
        for alike in by_width.values():
            self.put(steps.encode(alike))
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self.half_closed and not self.ended and not self.flying and not self._answers:
            self.ended = True
            self._wake()

    def _look(self) -> None:
        heaviest = max(self.flying_bytes, self.waiting_bytes)
        waiting = len(self._messages)
        if self.flying < STREAM_WINDOW and waiting < STREAM_ANSWERS and heaviest < STREAM_BYTES:
            self.calm.set()
        else:
            self.calm.clear()


class InferenceService:
    """Decodes, hands to the engine, encodes."""

    def __init__(self, hall: Hall) -> None:
        self._hall = hall
        self._sequences = sequences.Sequences(hall)
        self._held = HeldSteps(hall)
        self._streams: set[Stream] = set()
        self._broken = BrokenStreams()

    def drain(self) -> None:
        """End all streams once what was sent on them is answered."""
        for stream in tuple(self._streams):
            stream.drain()

    async def Step(self, request: Request, context: Context) -> steps.Response:
        self._hall.refuse_when_draining()
        reply = Reply()
        (tenant, origin), deadline = caller_of(context), deadline_of(context)
        found = self._decode(
            request, reply.deliver, tenant=tenant, origin=origin, deadline=deadline
        )
        if isinstance(found, pb.StepResponse):
            return found
        version, work = found
        reply.left = len(work)
        self._hall.submit(version, work)
        try:
            answers = await reply.future
        except asyncio.CancelledError:
            work.cancelled = True
            raise
        return steps.encode(answers, in_order=True)

    async def StreamSteps(self, line: Line, context: Context) -> None:
        self._hall.refuse_when_draining()
        tenant = tenant_of(context)
        with self._hall.quotas.stream(tenant):
            stream = Stream(tenant, origin_of(request_id.get()))
            owing(lambda: stream.flying > 0)
            self._streams.add(stream)
            reader = asyncio.create_task(self._read(line, stream))
            try:
                while (message := await stream.next()) is not None:
                    await line.write(message)
                    stream.sent(message)
                if stream.drained:
                    raise self._hall.draining_error()
                await reader
            except asyncio.CancelledError:
                self._broken.remember(stream.unfinished())
                raise
            finally:
                self._streams.discard(stream)
                reader.cancel()
                stream.cancel()

    async def _read(self, line: Line, stream: Stream) -> None:
        try:
            while (message := await line.read()) is not None:
                if not stream.calm.is_set():
                    await stream.calm.wait()
                if stream.drained:
                    break
                self._start(message.step, stream)
        finally:
            stream.half_close()

    def _start(self, request: Request, stream: Stream) -> None:
        """Submit one message; whatever is wrong with it becomes an error of its items."""
        try:
            found = self._decode(
                request, stream.deliver, tenant=stream.tenant, origin=stream.origin
            )
        except QueueFull as error:
            stream.refused.add(request.handles, request.step_indexes, error)
            return
        except CarouselError as error:
            if isinstance(request, OneStep):
                request = request.parsed()
            if not 1 <= len(request.handles) <= steps.MAX_ITEMS:
                raise  # there are no items, or far too many, to say it of
            found = item_errors.refuse(request, error)
        if isinstance(found, pb.StepResponse):
            stream.put(found)
            return
        version, work = found
        stream.latest = work.handles
        if self._broken:
            version.metrics.stream_resumes.inc(self._broken.take_back(work.handles))
        stream.expect(work, version.config.output_size)
        self._hall.submit(version, work)

    def _decode(
        self,
        request: Request,
        deliver: steps.Deliver,
        *,
        tenant: str,
        origin: Mapping[str, str] | None,
        deadline: float = NEVER,
    ) -> tuple[LoadedVersion, Work] | pb.StepResponse:
        """The work and who runs it, or at once the answer when no session was found.

        Raises QueueFull and QuotaExceeded, before anything else is looked at, when none of the
        items may wait.
        """
        if isinstance(request, OneStep):
            if (one := self._decode_one(request, deliver, tenant, origin, deadline)) is not None:
                return one
            request = request.parsed()
        steps.check_columns(request)
        version = self._hall.version_of(request.handles, tenant)
        if version is None:
            return self._refuse_strays(request, tenant)
        lane = version.door.lane(tenant, bulk=request.priority == pb.PRIORITY_BULK)
        room, count = lane.room(), len(request.handles)
        if self._hall.quotas.on:
            most = count * self._hall.settings.max_chunk  # longer ones are refused
            taken = min(sum(request.lengths) or count, most)
            self._hall.check_quotas(version, tenant, items=count, steps=taken)
        try:
            if room <= 0:
                raise version.refuse(lane, count)
            work = steps.decode(
                request,
                version,
                deliver,
                lane=lane,
                max_chunk=self._hall.settings.max_chunk,
                deadline=deadline,
                origin=origin,
            )
            steps.check_reply_size(
                version,
                steps=work.outputs_wanted,
                items=count,
                limit=self._hall.settings.max_message_bytes,
            )
        except CarouselError as error:
            version.metrics.failed(error.reason, count)
            raise
        if room < count:
            full = version.refuse(lane, count - room)
            work.refusals = [*work.refusals, *((item, full) for item in range(room, count))]
        return version, work

    def _decode_one(
        self,
        request: OneStep,
        deliver: steps.Deliver,
        tenant: str,
        origin: Mapping[str, str] | None,
        deadline: float,
    ) -> tuple[LoadedVersion, Work] | None:
        """The same for a step that nothing is amiss with, or None. Raises QuotaExceeded."""
        version = self._hall.version_of(request.handles, tenant)
        if version is None or (inputs := steps.inputs_of(request, version)) is None:
            return None
        lane = version.door.lane(tenant)
        size = steps.reply_size(version, steps=1, items=1)
        if lane.room() <= 0 or size > self._hall.settings.max_message_bytes:
            return None
        if self._hall.quotas.on:
            self._hall.check_quotas(version, tenant, items=1, steps=1)
        work = Work(
            request.handles,
            request.step_indexes,
            inputs,
            deliver,
            deadline=deadline,
            arrived=time.monotonic(),
            lane=lane,
            durables=request.durable_indexes,
            origin=origin,
        )
        return version, work

    def _refuse_strays(self, request: pb.StepRequest, tenant: str) -> pb.StepResponse:
        """Answer items of which no session is here."""
        errors = self._hall.engine.table.why_none(request.handles, tenant)
        for kind, count in Counter(map(type, errors)).items():
            self._hall.metrics.strayed(kind, count)
        return item_errors.refuse_each(request, errors)

    async def StepStates(
        self, request: pb.StepStatesRequest, context: Context
    ) -> pb.StepStatesResponse:
        self._hall.refuse_when_draining()
        (tenant, origin), deadline = caller_of(context), deadline_of(context)
        return await self._held.step(request, tenant=tenant, deadline=deadline, origin=origin)

    async def Predict(self, request: pb.PredictRequest, context: Context) -> pb.PredictResponse:
        self._hall.refuse_when_draining()
        return await self._sequences.predict(request, tenant_of(context))

    async def Trace(self, request: pb.TraceRequest, context: Context) -> pb.TraceResponse:
        return await self._sequences.trace(request, tenant_of(context))

    async def Generate(
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        tenant, deadline = tenant_of(context), deadline_of(context)
        with self._hall.quotas.stream(tenant):
            async for response in generation.generate(
                self._hall, request, tenant=tenant, deadline=deadline
            ):
                yield response
