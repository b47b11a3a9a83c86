"""The coalescer: steps awaited by many tasks in one tick of the loop, as one message.

A session has at most one item on its way, so answers are matched by handle. There is no task, no
message and no lock for each step: `submit` makes a future and appends to a list, one callback a
tick builds the columns, and one loop over an answer's columns resolves the futures.

A message leaves when as many items wait as steps are on their way. Where sessions do not step in
time with each other, this halves the latency and the work of a step against sending each tick's
few: 256 sessions with pauses of 0 to 20 ms went from 2 items a message to 58. Where they do, a
crowd leaves in halves, and then the server computes one while the tasks of the other run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import repeat

from carousel.client._async_transport import AsyncTransport
from carousel.client._columns import Outcome, expiry, fill, outcomes, outputs_of, settle, split
from carousel.client._cursor import Cursor, Item, shaped
from carousel.client._inputs import Floats
from carousel.client._retry import STORE_PAUSE
from carousel.client._step_stream import StepStream
from carousel.client._ticket import Ticket
from carousel.errors import (
    Cancelled,
    CarouselError,
    DeadlineExceeded,
    SessionNotFound,
    StoreUnavailable,
    Unavailable,
)
from carousel.v1 import inference_service_pb2 as pb

CROWD = 128  # steps that wait while none is on its way, and go as two messages


class Coalescer:
    """All sessions of one model version, shard and priority on one stream; the first step opens it.

    Those whose every step waits for the server's store have one of their own. A stream could carry
    several of these; apart, one that breaks leaves the others alone, and nobody waits for bulk work
    or for the store's sake.
    """

    def __init__(self, transport: AsyncTransport, shard: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._link = transport.link
        self._arrived: list[Ticket] = []  # in this tick
        self._waiting: list[Ticket] = []
        self._flying: dict[int, Ticket] = {}  # by handle
        self._flying_chunks = 0
        self._stream = StepStream(
            transport, shard, take=self._take, unanswered=self._unanswered, give_up=self._give_up
        )
        self._timer: asyncio.TimerHandle | None = None
        self._recoveries: set[asyncio.Task[None]] = set()
        self._closed = False

    def ticket(self, cursor: Cursor, recover: Callable[[float], Awaitable[None]]) -> Ticket:
        return Ticket(cursor, self._loop.create_future(), recover)

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
        if not self._arrived:
            self._loop.call_soon(self._end_tick)
        self._arrived.append(ticket)
        return future

    def abandon(self, ticket: Ticket) -> None:
        """The task that waited was cancelled."""
        future = ticket.future
        answered = ticket.cursor.open is None and ticket.unclaimed is None
        if answered and future.done() and not future.cancelled():
            # The answer had come in the same tick; the task never saw it.
            error = future.exception()
            ticket.unclaimed = error if isinstance(error, CarouselError) else future.result()
        self._withdraw(ticket)

    def _withdraw(self, ticket: Ticket) -> None:
        """An item that has not left stays here."""
        for tickets in (self._arrived, self._waiting):
            if ticket in tickets:
                tickets.remove(ticket)
                if ticket.is_fresh:
                    ticket.cursor.open = None

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
        ticket = self._flying.pop(handle, None)
        if ticket is not None and ticket.cursor.open is not None:
            self._flying_chunks -= ticket.cursor.open.is_chunk
        self._look()

    async def close(self) -> None:
        self._closed = True
        self._fail(Cancelled("the client was closed"))
        for task in self._recoveries:
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        await self._stream.close()

    def _end_tick(self) -> None:
        """Let what arrived in this tick leave, or wait."""
        arrived, self._arrived = self._arrived, []
        if not arrived:
            return
        now = self._loop.time()
        for ticket in arrived:
            ticket.deadline = now + ticket.timeout
        self._watch(now + min([ticket.timeout for ticket in arrived]))
        self._waiting += arrived
        self._look()

    def _look(self) -> None:
        # Chunks take several turns: nobody waits for them.
        if self._waiting and len(self._waiting) >= len(self._flying) - self._flying_chunks:
            self._depart()

    def _depart(self) -> None:
        """Send what waits, but for those that nobody wants any more."""
        waiting, self._waiting = self._waiting, []
        tickets = [ticket for ticket in waiting if not ticket.future.done()]
        if len(tickets) < len(waiting):
            for ticket in waiting:
                if ticket.future.done() and ticket.is_fresh:
                    ticket.cursor.open = None  # it never left
        middle = len(tickets) // 2 if len(tickets) >= CROWD and not self._flying else 0
        for part in (tickets[:middle], tickets[middle:]):
            if part:
                self._send(part)

    def _send(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            cursor = ticket.cursor
            self._flying[cursor.handle] = ticket
            if cursor.open is not None and cursor.open.is_chunk:
                self._flying_chunks += 1
        self._stream.send(pack(tickets))

    def _unanswered(self) -> list[pb.StreamStepsRequest]:
        return pack(self._flying.values())

    def _take(self, response: pb.StepResponse) -> None:
        if response.errors or response.lengths or response.notices:
            self._take_each(response)
            return
        expires = expiry(response)
        flying = self._flying
        for handle, index, row, durable in zip(
            response.handles,
            response.step_indexes,
            outputs_of(response),
            response.durable_indexes or repeat(0),
            strict=False,
        ):
            ticket = flying.pop(handle, None)
            if ticket is None:
                continue
            cursor = ticket.cursor
            item = cursor.open
            if item is None:
                continue
            if item.is_chunk:
                self._flying_chunks -= 1
            cursor.index = index
            cursor.succeed(item, durable)
            cursor.expires = expires
            future = ticket.future
            if future.done():
                ticket.unclaimed = shaped(item, row.copy())
            else:
                future.set_result(row.copy())  # a view would keep everybody's rows alive
        self._look()

    def _take_each(self, response: pb.StepResponse) -> None:
        found = outcomes(response)
        tickets = [self._flying.pop(handle, None) for handle in response.handles]
        names = [None if ticket is None else ticket.cursor.name for ticket in tickets]
        self._link.tell_notices(names, response.notices)
        for place, (ticket, outcome) in enumerate(zip(tickets, found, strict=True)):
            item = None if ticket is None else ticket.cursor.open
            if ticket is None or item is None:
                continue
            self._flying_chunks -= item.is_chunk
            lost = isinstance(outcome, SessionNotFound) and ticket.cursor.survives
            if lost or isinstance(outcome, StoreUnavailable):
                task = self._loop.create_task(self._once_more(ticket, item, outcome))
                self._recoveries.add(task)
                task.add_done_callback(self._recoveries.discard)
            elif isinstance(outcome, CarouselError):
                ticket.cursor.fail(outcome)
                ticket.refuse(outcome)
            else:
                settle(ticket.cursor, item, response, place)
                ticket.give(shaped(item, outcome))
        self._look()

    async def _once_more(self, ticket: Ticket, item: Item, why: Outcome) -> None:
        """Send an open item again: once its session is back from a server that was lost, or once
        the store has had a moment to take it."""
        future = ticket.future
        try:
            if not isinstance(why, StoreUnavailable):
                await ticket.recover(ticket.deadline)
            elif self._loop.time() + STORE_PAUSE < ticket.deadline:
                await asyncio.sleep(STORE_PAUSE)
            else:
                raise why
        except CarouselError as error:
            if not isinstance(error, Unavailable | DeadlineExceeded):
                ticket.cursor.fail(error)
            if not future.done():
                future.set_exception(error)
            return
        # Whoever gave up meanwhile settles it with the next use.
        if ticket.cursor.open is item and not future.done():
            self._waiting.append(ticket)
            self._look()

    def _give_up(self, error: CarouselError) -> bool:
        """Attempts are used up; True where sessions that survive their server go on waiting."""
        patient = {
            handle: ticket
            for handle, ticket in self._flying.items()
            if ticket.cursor.survives and not ticket.future.done()
        }
        if not isinstance(error, Unavailable):
            patient = {}
        self._flying = {h: t for h, t in self._flying.items() if h not in patient}
        waiting = [t for t in self._arrived + self._waiting if t.cursor.survives and patient]
        self._arrived = [t for t in self._arrived if t not in waiting]
        self._waiting = [t for t in self._waiting if t not in waiting]
        self._fail(error)
        self._flying, self._waiting = patient, waiting
        self._flying_chunks = sum(
            ticket.cursor.open is not None and ticket.cursor.open.is_chunk
            for ticket in patient.values()
        )
        return bool(patient)

    def _fail(self, error: CarouselError) -> None:
        """Give up on everything; what was sent stays open in its cursor."""
        unsent = self._arrived + self._waiting
        sent = list(self._flying.values())
        self._arrived, self._waiting = [], []
        self._flying.clear()
        self._flying_chunks = 0
        for ticket in unsent:
            if ticket.is_fresh:
                ticket.cursor.open = None
        for ticket in (*unsent, *sent):
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
        deadlines = []
        for ticket in (*self._waiting, *self._flying.values()):
            if ticket.future.done():
                continue
            if ticket.deadline > now:
                deadlines.append(ticket.deadline)
                continue
            cursor = ticket.cursor
            message = f"step {cursor.index} of {cursor.name} was not answered in time"
            ticket.future.set_exception(DeadlineExceeded(message))
            self._withdraw(ticket)
        if deadlines:
            self._watch(min(deadlines))


def pack(tickets: Iterable[Ticket]) -> list[pb.StreamStepsRequest]:
    """Items as messages: one for all that are of one width and mode."""
    messages: list[pb.StreamStepsRequest] = []
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
            messages.append(message)
    return messages
