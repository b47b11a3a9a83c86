"""Steps at a front end: messages go to the engine through the ring, answers become messages."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np

from carousel.errors import CarouselError, QueueFull
from carousel.server import item_errors, steps
from carousel.server.flow import owing
from carousel.server.frontends.asking import Asking
from carousel.server.frontends.relay import Relay
from carousel.server.logs import request_id
from carousel.server.one_step import OneStep
from carousel.server.rpc import Context, Line
from carousel.server.services import SERVICES
from carousel.server.services.step_answers import Reply, Request, Stream, deadline_of
from carousel.server.tenants import caller_of, party_of, tenant_of
from carousel.server.work import NEVER, Answer, Inputs, Work
from carousel.v1 import inference_service_pb2 as pb

WIDEST = 65_536  # outputs of a step, assumed until a stream has seen some

_NOTHING = np.empty(0, np.float32)


class Stepping(Relay):
    """InferenceService, of which steps do not take the way of the other calls."""

    def __init__(self, channel: grpc.aio.Channel, asking: Asking) -> None:
        super().__init__(channel, SERVICES["inference"])
        self._asking = asking
        self._streams: set[_Stream] = set()
        self._draining: CarouselError | None = None

    def drain(self, why: CarouselError) -> None:
        """End all streams once what was sent on them is answered."""
        self._draining = why
        for stream in tuple(self._streams):
            stream.drain()

    async def Step(self, request: Request, context: Context) -> steps.Response:
        mode, message = _read(request)
        tenant, origin = caller_of(context)
        reply, whole = Reply(), list[pb.StepResponse]()

        def end(outcome: pb.StepResponse | CarouselError) -> None:
            if reply.future.done():
                return
            if isinstance(outcome, CarouselError):
                reply.future.set_exception(outcome)
            else:
                whole.append(outcome)
                reply.future.set_result([])

        work = Work(
            list(request.handles),
            list(request.step_indexes),
            _NOTHING,
            reply.deliver,
            deadline=deadline_of(context),
            mode=mode,
        )
        reply.left = len(work)
        name = origin["request_id"] if origin else ""
        party = party_of(context)
        call = self._asking.ask(message, work, end, tenant=tenant, party=party, request_id=name)
        try:
            answers = await reply.future
        except asyncio.CancelledError:
            self._asking.give_up(call)
            raise
        return whole[0] if whole else steps.encode(answers, in_order=True)

    async def StreamSteps(self, line: Line, context: Context) -> None:
        tenant, party = tenant_of(context), party_of(context)
        number = await self._asking.open(tenant)
        stream = _Stream(self._asking, number, tenant, party)
        owing(lambda: stream.flying > 0)
        self._streams.add(stream)
        reader = asyncio.create_task(stream.read(line, stream.start))
        broken: list[int] = []
        try:
            while (message := await stream.next()) is not None:
                await line.write(message)
                stream.sent(message)
            if stream.drained and self._draining is not None:
                raise self._draining
            await reader
        except asyncio.CancelledError:
            broken = stream.unfinished()
            raise
        finally:
            self._streams.discard(stream)
            reader.cancel()
            self._asking.close(number, broken)


class _Stream(Stream):
    """The answers of one stream, and how its messages get there."""

    def __init__(self, asking: Asking, number: int, tenant: str, party: str) -> None:
        super().__init__(tenant, party, None)
        self._asking = asking
        self._number = number
        self._request_id = request_id.get()
        self._widest = 0  # outputs of a step so far

    def start(self, request: Request) -> None:
        """Send one message; whatever is wrong with it becomes an error of its items."""
        try:
            _, message = _read(request)
        except CarouselError as error:
            self._refuse(request, error)
            return
        work = _work(request, self)
        self.latest = work.handles
        self.expect(work, self._widest or WIDEST)

        def end(outcome: pb.StepResponse | CarouselError) -> None:
            if isinstance(outcome, CarouselError):
                self._refuse(request, outcome)
            else:
                self.put(outcome)
            self.settle(work)

        about = {"tenant": self.tenant, "party": self.party, "request_id": self._request_id}
        self._asking.ask(message, work, end, stream=self._number, **about)

    def _refuse(self, request: Request, error: CarouselError) -> None:
        if isinstance(error, QueueFull):
            self.refuse(request, error)
            return
        if isinstance(request, OneStep):
            request = request.parsed()
        if not 1 <= len(request.handles) <= steps.MAX_ITEMS:
            raise error  # there are no items, or far too many, to say it of
        self.put(item_errors.refuse(request, error))

    def deliver(self, answer: Answer) -> None:
        self._widest = max(self._widest, answer.outputs.shape[1])
        super().deliver(answer)


def _read(request: Request) -> tuple[int, bytes]:
    """The mode of outputs, and what goes to the engine. Raises InvalidField."""
    if isinstance(request, OneStep):
        return pb.OUTPUT_MODE_UNSPECIFIED, request.message
    steps.check_columns(request)
    return request.output_mode, request.SerializeToString()


def _work(request: Request, stream: _Stream) -> Work:
    """What a stream must know of a message; the engine reads the message itself."""
    if isinstance(request, OneStep):
        values = _rows(request.values, 1)
        return Work(request.handles, request.step_indexes, values, stream.deliver)
    handles = list(request.handles)
    lengths = np.array(request.lengths, np.int64) if request.lengths else None
    if lengths is not None and lengths.max() == 1 and lengths.min() == 1:
        lengths = None
    count = len(handles) if lengths is None else int(lengths.sum())
    return Work(
        handles,
        list(request.step_indexes),
        _rows(request.inputs.data, count),
        stream.deliver,
        lengths=lengths,
        deadline=NEVER,
        mode=request.output_mode,
    )


def _rows(data: bytes, count: int) -> Inputs:
    """The bytes of each step's inputs, as far as there are such."""
    if not data or not count or len(data) % count:
        return np.empty((count, 0), np.float32)
    rows: Inputs = np.frombuffer(data, np.uint8).reshape(count, -1)  # type: ignore[assignment]
    return rows
