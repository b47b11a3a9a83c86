"""The engine's end of a link: what one front end asks is submitted, and answered as it is done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np

from carousel.errors import CarouselError, InternalError
from carousel.server import one_step
from carousel.server.access_log import Recorder
from carousel.server.frontends import counts, records
from carousel.server.frontends.asking import NO_STREAM
from carousel.server.frontends.link import Link
from carousel.server.hall import Hall
from carousel.server.services.inference_service import InferenceService
from carousel.server.tenants import origin_of
from carousel.server.work import Answer, Work
from carousel.v1 import inference_service_pb2 as pb

log = logging.getLogger("carousel.frontends")


class _Running:
    """A call under way; `calls` are those of its stream, or those outside of any."""

    __slots__ = ("_end", "call", "calls", "left", "work")

    def __init__(self, end: EngineEnd, call: int, calls: _Calls, left: int) -> None:
        self._end = end
        self.call = call
        self.calls = calls
        self.left = left
        self.work: Work | None = None

    def deliver(self, answer: Answer) -> None:
        self.left -= len(answer.items) + len(answer.errors)
        self._end.answer(self, answer)


_Calls = dict[int, _Running]


class EngineEnd:
    """Of one front end. `link` is set before anything is received."""

    link: Link

    def __init__(
        self,
        hall: Hall,
        inference: InferenceService,
        counted: counts.Families,
        recorder: Recorder | None,
        *,
        ready: Callable[[], None],
    ) -> None:
        self._hall = hall
        self._inference = inference
        self._counted = counted
        self._recorder = recorder
        self._ready = ready
        self._calls: _Calls = {}  # outside of streams
        self._streams: dict[int, tuple[AbstractContextManager[None], _Calls]] = {}
        self._does: dict[int, Callable[[bytes], None]] = {
            records.READY: lambda record: self._ready(),
            records.STEP: self._step,
            records.GONE: self._gone,
            records.OPEN: self._open,
            records.CLOSE: self._close,
            records.COUNTS: self._count,
            records.LOG: self._log,
        }

    def receive(self, received: Sequence[bytes]) -> None:
        for record in received:
            try:
                self._does[records.kind_of(record)](record)
            except Exception:  # a bug must not silence the front end
                log.exception("a record of a front end could not be dealt with")

    def answer(self, running: _Running, answer: Answer) -> None:
        """A turn finished something of a call."""
        if running.left <= 0:
            running.calls.pop(running.call, None)
            running.work = None  # which knows it too, by what it delivers to
        self.link.send(records.answer(running.call, answer))

    def lost(self) -> None:
        """The front end has ended: what it waited for and is not committed vanishes."""
        _cancel(self._calls)
        for quota, calls in self._streams.values():
            self._inference.broke_off(_cancel(calls))
            quota.__exit__(None, None, None)
        self._streams.clear()

    def _step(self, record: bytes) -> None:
        call, stream, deadline, *names, message = records.read_step(record)
        tenant, party, request_id = names
        request = one_step.read(message) or pb.StepRequest.FromString(message)
        calls = self._calls if stream == NO_STREAM else self._streams[stream][1]
        running = _Running(self, call, calls, len(request.handles))
        try:
            found = self._inference.take(
                request,
                running.deliver,
                tenant=tenant,
                party=party,
                origin=origin_of(request_id),
                deadline=deadline,
                in_stream=stream != NO_STREAM,
            )
        except CarouselError as error:
            self.link.send(records.refusal(records.REFUSED, call, error))
        except Exception:
            log.exception("steps could not be submitted")
            fault = InternalError(f"a fault of the server; its log has request {request_id}")
            self.link.send(records.refusal(records.REFUSED, call, fault))
        else:
            if isinstance(found, Work):
                if running.left > 0:  # a lone step is answered already
                    running.work = found
                    calls[call] = running
            else:
                response = found.SerializeToString()
                self.link.send(records.named(records.RESPONSE, call, response))

    def _gone(self, record: bytes) -> None:
        running = self._calls.pop(records.read_named(record)[0], None)
        if running is not None and running.work is not None:
            running.work.cancelled = True

    def _open(self, record: bytes) -> None:
        number, tenant = records.read_named(record)
        try:
            self._hall.refuse_when_draining()
            stream = self._hall.quotas.stream(tenant.decode())
            stream.__enter__()
        except CarouselError as error:
            self.link.send(records.refusal(records.OPENED, number, error))
        else:
            self._streams[number] = stream, {}
            self.link.send(records.named(records.OPENED, number))

    def _close(self, record: bytes) -> None:
        number, handles = records.read_named(record)
        quota, calls = self._streams.pop(number, (None, {}))
        if quota is not None:
            quota.__exit__(None, None, None)
        _cancel(calls)
        if handles:
            self._inference.broke_off(np.frombuffer(handles, np.uint64).tolist())

    def _count(self, record: bytes) -> None:
        counts.add(self._counted, records.read_plain(record))

    def _log(self, record: bytes) -> None:
        if self._recorder is not None:
            self._recorder.put(records.read_plain(record))


def _cancel(calls: _Calls) -> list[int]:
    """What has not been committed vanishes; the handles that it was for."""
    works = [running.work for running in calls.values() if running.work is not None]
    calls.clear()
    for work in works:
        work.cancelled = True
    return [handle for work in works for handle in work.handles]
