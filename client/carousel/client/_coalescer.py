"""The coalescer: steps awaited by many tasks in one tick of the loop, as one message.

A session has at most one item on its way, so answers are matched by handle. There is no task, no
message and no lock for each step: `submit` makes a future and appends to a list, one callback a
tick builds the columns, and one loop over an answer's columns resolves the futures.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any

import grpc

from carousel.client._async_transport import AsyncTransport
from carousel.client._columns import expiry, fill, outcomes, outputs_of, split, update
from carousel.client._cursor import Cursor, Item, shaped
from carousel.client._errors import is_refusal, translate
from carousel.client._events import Event
from carousel.client._inputs import Floats
from carousel.client._retry import ATTEMPTS, RESENT, delay
from carousel.client._transport import SHARD_HEADER
from carousel.errors import (
    Cancelled,
    CarouselError,
    DeadlineExceeded,
    InternalError,
    ServerUnreachable,
)
from carousel.v1 import inference_service_pb2 as pb

STREAM = "carousel.v1.InferenceService/StreamSteps"


class Ticket:
    """A session's place: who waits for its open item, until when, and what nobody fetched."""

    __slots__ = ("cursor", "deadline", "future", "is_fresh", "timeout", "unclaimed")

    def __init__(self, cursor: Cursor, future: asyncio.Future[Floats]) -> None:
        self.cursor = cursor
        self.future = future
        self.is_fresh = True  # the open item has never been sent
        self.timeout = 0.0
        self.deadline = 0.0
        self.unclaimed: Floats | CarouselError | None = None

    def give(self, rows: Floats) -> None:
        if self.future.done():
            self.unclaimed = rows
        else:
            self.future.set_result(rows)

    def refuse(self, error: CarouselError) -> None:
        if self.future.done():
            self.unclaimed = error
        else:
            self.future.set_exception(error)


class Coalescer:
    """All sessions of one model version and shard on one stream, opened by the first step.

    A stream could carry several models; on streams of their own, one that breaks leaves the
    others alone.
    """

    def __init__(self, transport: AsyncTransport, shard: int) -> None:
        self._transport = transport
        self._shard = shard
        self._loop = asyncio.get_running_loop()
        self._queue: list[Ticket] = []
        self._flying: dict[int, Ticket] = {}  # by handle
        self._outbox: deque[pb.StreamStepsRequest] = deque()
        self._outbox_filled = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._attempt = 0
        self._closed = False

    def ticket(self, cursor: Cursor) -> Ticket:
        return Ticket(cursor, self._loop.create_future())

    def submit(self, ticket: Ticket, item: Item, timeout: float) -> asyncio.Future[Floats]:
        """Queue an item; it leaves with all others of this tick."""
        if self._closed:
            raise RuntimeError("the client is closed")
        cursor = ticket.cursor
        ticket.is_fresh = cursor.open is None
        cursor.open = item
        ticket.timeout = timeout
        ticket.unclaimed = None
        ticket.future = future = self._loop.create_future()
        if not self._queue:
            self._loop.call_soon(self._flush)
        self._queue.append(ticket)
        return future

    def rejoin(self, ticket: Ticket, timeout: float) -> asyncio.Future[Floats] | None:
        """Wait again for an item that is on its way; None when it is not."""
        if self._flying.get(ticket.cursor.handle) is not ticket:
            return None
        ticket.future = self._loop.create_future()
        ticket.deadline = self._loop.time() + timeout
        self._watch(ticket.deadline)
        return ticket.future

    def forget(self, handle: int) -> None:
        """A handle was given up: what still comes for it is nobody's."""
        self._flying.pop(handle, None)

    async def close(self) -> None:
        self._closed = True
        self._fail(Cancelled("the client was closed"))
        if self._timer is not None:
            self._timer.cancel()
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)

    def _flush(self) -> None:
        queue, self._queue = self._queue, []
        tickets = [ticket for ticket in queue if not ticket.future.cancelled()]
        if len(tickets) < len(queue):
            for ticket in queue:
                if ticket.future.cancelled() and ticket.is_fresh:
                    ticket.cursor.open = None  # it never left
        if not tickets:
            return
        now = self._loop.time()
        flying = self._flying
        for ticket in tickets:
            ticket.deadline = now + ticket.timeout
            flying[ticket.cursor.handle] = ticket
        self._watch(now + min([ticket.timeout for ticket in tickets]))
        self._pack(tickets)
        if self._runner is None:
            self._runner = self._loop.create_task(self._run())

    def _pack(self, tickets: Iterable[Ticket]) -> None:
        """Put items into messages: one for all that are of one width and mode."""
        groups: dict[tuple[int, int], tuple[list[Cursor], list[Item]]] = {}
        for ticket in tickets:
            cursor = ticket.cursor
            item = cursor.open
            assert item is not None
            key = (item.width, item.mode)
            group = groups.get(key)
            if group is None:
                group = groups[key] = ([], [])
            group[0].append(cursor)
            group[1].append(item)
        for cursors, items in groups.values():
            for cut in split(items):
                message = pb.StreamStepsRequest()
                fill(message.step, cursors[cut], items[cut])
                self._outbox.append(message)
        self._outbox_filled.set()

    async def _run(self) -> None:
        """Keep a stream while something is on its way; send again what a broken one lost."""
        try:
            while True:
                try:
                    await self._converse()
                    error: CarouselError = ServerUnreachable("the server ended the stream of steps")
                    again = True
                except grpc.RpcError as failure:
                    error = translate(failure)
                    error.__cause__ = failure
                    again = failure.code() in RESENT and not is_refusal(failure)
                except Exception as failure:
                    # A message that makes no sense: nobody must wait for the rest of it.
                    error = InternalError(f"the stream of steps could not be read: {failure}")
                    error.__cause__ = failure
                    again = False
                self._transport.link.saw(error)
                if not self._flying:
                    return
                self._attempt += 1
                if not again or self._attempt >= ATTEMPTS:
                    self._attempt = 0
                    self._fail(error)
                    return
                wait = delay(self._attempt)
                self._transport.link.tell(
                    Event("retry", attempt=self._attempt, delay=wait, error=error)
                )
                await asyncio.sleep(wait)
                self._outbox.clear()
                self._pack(self._flying.values())
        finally:
            self._outbox.clear()
            self._runner = None

    async def _converse(self) -> None:
        """One stream, from its opening to its end."""
        method = self._transport.method("stream_stream", STREAM, pb.StreamStepsResponse)
        call = method(metadata=((SHARD_HEADER, str(self._shard)),))
        writer = asyncio.create_task(self._write(call))
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
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

    def _take(self, response: pb.StepResponse) -> None:
        self._attempt = 0
        if not self._transport.link.up:
            self._transport.link.answered()
        if response.errors or response.lengths or response.durable_indexes:
            self._take_each(response)
            return
        expires = expiry(response)
        flying = self._flying
        for handle, index, row in zip(
            response.handles, response.step_indexes, outputs_of(response), strict=True
        ):
            ticket = flying.pop(handle, None)
            if ticket is None:
                continue
            cursor = ticket.cursor
            item, cursor.open = cursor.open, None
            if item is None:
                continue
            cursor.index = index + item.steps
            cursor.expires = expires
            future = ticket.future
            if future.done():
                ticket.unclaimed = shaped(item, row.copy())
            else:
                future.set_result(row.copy())  # a view would keep everybody's rows alive

    def _take_each(self, response: pb.StepResponse) -> None:
        for place, outcome in enumerate(outcomes(response)):
            ticket = self._flying.pop(response.handles[place], None)
            item = None if ticket is None else ticket.cursor.open
            if ticket is None or item is None:
                continue
            if isinstance(outcome, CarouselError):
                ticket.cursor.fail(outcome)
                ticket.refuse(outcome)
            else:
                ticket.cursor.succeed(item)
                update(ticket.cursor, response, place)
                ticket.give(shaped(item, outcome))

    def _fail(self, error: CarouselError) -> None:
        """Give up on everything; what was sent stays open in its cursor."""
        queue, self._queue = self._queue, []
        for ticket in queue:
            if ticket.is_fresh:
                ticket.cursor.open = None
        flying, self._flying = self._flying, {}
        refused = is_refusal(error)
        for ticket in flying.values():
            if refused:
                ticket.cursor.fail(error)
        for ticket in (*queue, *flying.values()):
            if not ticket.future.done():
                ticket.future.set_exception(error)

    def _watch(self, deadline: float) -> None:
        """See to it that `_expire` runs at this time at the latest."""
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        """Let those go whose deadline passed; their items stay on their way."""
        self._timer = None
        now = self._loop.time()
        waiting = []
        for ticket in self._flying.values():
            if ticket.future.done():
                continue
            if ticket.deadline <= now:
                cursor = ticket.cursor
                message = f"step {cursor.index} of {cursor.name} was not answered in time"
                ticket.future.set_exception(DeadlineExceeded(message))
            else:
                waiting.append(ticket.deadline)
        if waiting:
            self._watch(min(waiting))
