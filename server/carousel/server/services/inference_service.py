"""InferenceService: steps, streams of steps, whole sequences, generation, traces."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import partial

from carousel.errors import CarouselError, QueueFull
from carousel.server import generation, item_errors, sequences, steps
from carousel.server.broken_streams import BrokenStreams
from carousel.server.flow import owing
from carousel.server.hall import Hall
from carousel.server.held.steps import HeldSteps
from carousel.server.loaded import LoadedVersion
from carousel.server.logs import request_id
from carousel.server.one_step import OneStep
from carousel.server.rpc import Context, Line
from carousel.server.services.step_answers import Reply, Request, Stream, deadline_of
from carousel.server.tenants import caller_of, origin_of, party_of, tenant_of
from carousel.server.work import NEVER, Work
from carousel.v1 import inference_service_pb2 as pb


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
            request,
            reply.deliver,
            tenant=tenant,
            party=party_of(context),
            origin=origin,
            deadline=deadline,
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
            stream = Stream(tenant, party_of(context), origin_of(request_id.get()))
            owing(lambda: stream.flying > 0)
            self._streams.add(stream)
            reader = asyncio.create_task(stream.read(line, partial(self._start, stream)))
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

    def _start(self, stream: Stream, request: Request) -> None:
        """Submit one message; whatever is wrong with it becomes an error of its items."""
        try:
            found = self._decode(
                request,
                stream.deliver,
                tenant=stream.tenant,
                party=stream.party,
                origin=stream.origin,
            )
        except QueueFull as error:
            stream.refuse(request, error)
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

    def take(
        self,
        request: Request,
        deliver: steps.Deliver,
        *,
        tenant: str,
        party: str,
        origin: Mapping[str, str] | None,
        deadline: float,
        in_stream: bool,
    ) -> Work | pb.StepResponse:
        """A message that a front end took: its work, which is on its way, or at once its answer.

        Raises what is wrong with all of it.
        """
        if not in_stream:  # what was sent on a stream is finished
            self._hall.refuse_when_draining()
        found = self._decode(
            request, deliver, tenant=tenant, party=party, origin=origin, deadline=deadline
        )
        if isinstance(found, pb.StepResponse):
            return found
        version, work = found
        if in_stream and self._broken:
            version.metrics.stream_resumes.inc(self._broken.take_back(work.handles))
        self._hall.submit(version, work)
        return work

    def broke_off(self, handles: Iterable[int]) -> None:
        """A stream at a front end did, with steps of these sessions that may not have arrived."""
        self._broken.remember(handles)

    def _decode(
        self,
        request: Request,
        deliver: steps.Deliver,
        *,
        tenant: str,
        party: str,
        origin: Mapping[str, str] | None,
        deadline: float = NEVER,
    ) -> tuple[LoadedVersion, Work] | pb.StepResponse:
        """The work and who runs it, or at once the answer when no session was found.

        Raises QueueFull and QuotaExceeded, before anything else is looked at, when none of the
        items may wait.
        """
        if isinstance(request, OneStep):
            about = (tenant, party, origin, deadline)
            if (one := self._decode_one(request, deliver, *about)) is not None:
                return one
            request = request.parsed()
        steps.check_columns(request)
        version = self._hall.version_of(request.handles, tenant)
        if version is None:
            return self._refuse_strays(request, tenant)
        lane = version.door.lane(tenant, party=party, bulk=request.priority == pb.PRIORITY_BULK)
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
        party: str,
        origin: Mapping[str, str] | None,
        deadline: float,
    ) -> tuple[LoadedVersion, Work] | None:
        """The same for a step that nothing is amiss with, or None. Raises QuotaExceeded."""
        version = self._hall.version_of(request.handles, tenant)
        if version is None or (inputs := steps.inputs_of(request, version)) is None:
            return None
        lane = version.door.lane(tenant, party=party)
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
        runs = self._hall.engine.table.why_none(request.handles, tenant)
        for error, count in runs:
            self._hall.metrics.strayed(type(error), count)
        return item_errors.refuse_runs(request, runs)

    async def StepStates(
        self, request: pb.StepStatesRequest, context: Context
    ) -> pb.StepStatesResponse:
        self._hall.refuse_when_draining()
        (tenant, origin), deadline = caller_of(context), deadline_of(context)
        about = {"tenant": tenant, "party": party_of(context)}
        return await self._held.step(request, **about, deadline=deadline, origin=origin)

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
