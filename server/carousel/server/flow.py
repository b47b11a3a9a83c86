"""Flow: calls of which the other side has stopped to read, or to write, are cut.

A call that waits for its caller holds what it has to say, and its place on the connection. Nothing
is timed for each message: it leaves a moment behind, and all calls are looked at now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc

from carousel.errors import CarouselError, StreamStalled
from carousel.server.ending import abort
from carousel.server.limits import ConnectionLimits
from carousel.server.logs import REQUEST_ID_KEY, request_id
from carousel.server.rpc_metrics import CUT_IDLE, CUT_READER, CUT_UPLOAD, RpcMetrics

log = logging.getLogger("carousel.rpc")

LOOKS = 8  # in the shortest of the times
LONGEST_LOOK = 5.0  # seconds

Context = grpc.aio.ServicerContext[Any, Any]


class Flow:
    """One call. `reading` and `writing`: since when it waits for its caller; 0: it does not.

    `owes` says whether an answer is on its way, so that silence is ours. `cut` is why its handler
    was cancelled, if it was by us.
    """

    __slots__ = (
        "_headers",
        "_request_id",
        "context",
        "cut",
        "kind",
        "owes",
        "reading",
        "said",
        "task",
        "writing",
    )

    def __init__(self, kind: str, context: Context) -> None:
        self.kind = kind
        self.context = context
        self.task = asyncio.current_task()
        self.reading = self.writing = 0.0
        self.said = time.monotonic()
        self.owes: Callable[[], bool] = lambda: False
        self.cut: CarouselError | None = None
        self._headers = False
        self._request_id = request_id.get()

    async def read(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The requests, noted while they are waited for."""
        while True:
            self.reading = time.monotonic()
            request = await anext(requests, grpc.aio.EOF)
            self.reading = 0.0
            if request is grpc.aio.EOF:
                await ended(self.context)
                return
            yield request

    async def write(self) -> None:
        """An answer is handed over; it waits until the caller has room for it.

        Were the first to take the headers along, no status could follow it while it waits.
        """
        if not self._headers:
            self._headers = True
            await sent(self.context.send_initial_metadata(()))
        self.writing = time.monotonic()

    def written(self) -> None:
        self.said, self.writing = time.monotonic(), 0.0

    async def abort(self, error: CarouselError) -> None:
        """End the call with this error, whatever its handler does."""
        with contextlib.suppress(Exception):  # gRPC's own, which it raises always
            await abort(self.context, error, ((REQUEST_ID_KEY, self._request_id),))


async def sent(sending: Awaitable[None]) -> None:
    """Something is on its way to the caller. Raises CancelledError where nobody is there any more.

    Of a caller that dies gRPC tells in no order: that it is gone, and that this can't be sent.
    """
    try:
        await sending
    except grpc.aio.InternalError as error:
        raise asyncio.CancelledError from error


async def ended(context: Context) -> None:
    """The requests of a call have come to their end, and it was not that its caller has gone.

    A call that is taken back has no more requests either, and gRPC tells of that first. What is
    asked for after the end is answered behind what else there was to tell: a handler whose caller
    has gone is cancelled before this returns.
    """
    await context.read()


_now: ContextVar[Flow] = ContextVar("flow")


def owing(owes: Callable[[], bool]) -> None:
    """In a handler: while this is so, its stream is not idle."""
    _now.get().owes = owes


class Flows:
    """All calls with a stream, of the event loop's thread."""

    def __init__(self, limits: ConnectionLimits, metrics: RpcMetrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self.begun = 0  # calls that grpc.aio took up
        self.lost = 0  # all calls that were taken back before their deadline
        self._live: set[Flow] = set()
        self._aborts: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._live)

    def begin(self, kind: str, context: Context) -> Flow:
        flow = Flow(kind, context)
        self._live.add(flow)
        _now.set(flow)
        return flow

    def end(self, flow: Flow) -> None:
        self._live.discard(flow)

    async def watch(self) -> None:
        """Look at all of them for ever."""
        limits = self._limits
        times = [limits.reader_timeout, limits.upload_timeout, limits.stream_idle]
        given = [seconds for seconds in times if seconds is not None]
        if not given:
            return
        while True:
            await asyncio.sleep(min(min(given) / LOOKS, LONGEST_LOOK))
            now = time.monotonic()
            for flow in tuple(self._live):
                self._look(flow, now)

    def _look(self, flow: Flow, now: float) -> None:
        limits = self._limits
        if flow.cut is not None:
            return
        if flow.writing:
            self._cut(flow, now - flow.writing, limits.reader_timeout, CUT_READER)
        elif flow.reading and flow.kind == "client_stream":
            self._cut(flow, now - flow.reading, limits.upload_timeout, CUT_UPLOAD)
        elif flow.reading and flow.kind == "bidi_stream":
            if flow.owes():
                flow.said = now
            silent = now - max(flow.reading, flow.said)
            self._cut(flow, silent, limits.stream_idle, CUT_IDLE)

    def _cut(self, flow: Flow, silent: float, allowed: float | None, reason: str) -> None:
        if allowed is None or silent <= allowed or flow.task is None:
            return
        flow.cut = StreamStalled(
            f"{_WORDS[reason]} for {silent:.3g} s, {allowed:g} s are allowed",
            metadata={"what": reason},
        )
        self._metrics.streams_cut.labels(reason).inc()
        log.info("a stream is cut: %s", flow.cut.message)
        if reason == CUT_READER:
            # Its handler can't say why any more: it hangs in gRPC, where its answer waits to
            # leave. So the status is sent first; it waits behind what was not read, for as long as
            # the connection lives, when the handler and all that it holds are gone.
            aborting = asyncio.ensure_future(flow.abort(flow.cut))
            self._aborts.add(aborting)
            aborting.add_done_callback(self._aborts.discard)
        asyncio.get_running_loop().call_soon(flow.task.cancel)


_WORDS = {
    CUT_READER: "the caller has not read its answers",
    CUT_UPLOAD: "the upload has brought nothing",
    CUT_IDLE: "nothing was said on the stream",
}
