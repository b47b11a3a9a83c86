"""AsyncStepping: how a session's items are sent, and brought to their end when something breaks."""

# ruff: noqa: ASYNC109 - a timeout is a gRPC deadline here, which the server is told

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from carousel.client import _session_calls
from carousel.client._async_transport import AsyncTransport
from carousel.client._call import Call, Result
from carousel.client._coalescer import Coalescer
from carousel.client._columns import fill, fill_item, outcomes, settle
from carousel.client._cursor import Item, Said, far_ahead, shaped
from carousel.client._errors import is_refusal, may_go_better
from carousel.client._events import Event
from carousel.client._generation import PATH
from carousel.client._inputs import Floats
from carousel.client._priority import Priority
from carousel.client._retry import STORE_PAUSE, delay
from carousel.client._session_view import SessionView
from carousel.client._turn import Turn
from carousel.errors import (
    CarouselError,
    MessageTooLarge,
    SessionAtRest,
    SessionNotFound,
    StoreUnavailable,
)
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import session_pb2

COALESCED_STEPS = 64
COALESCED_BYTES = 2**18
"""Chunks of more travel alone, so that nobody's step waits behind them on the wire."""


class AsyncStepping(SessionView):
    """The part of AsyncSession below its public methods."""

    def __init__(
        self,
        transport: AsyncTransport,
        coalescer: Coalescer,
        made: session_pb2.Session,
        priority: Priority,
    ) -> None:
        super().__init__(made, priority)
        self._transport = transport
        self._coalescer = coalescer
        self._ticket = coalescer.ticket(self._cursor, self._recover)
        self._turn = Turn()

    async def _ride(self, item: Item, timeout: float | None) -> Floats:
        """Send an item: with others where it is small, or else alone."""
        if item.steps > COALESCED_STEPS or len(item.data) > COALESCED_BYTES:
            return await self._send(item, timeout)
        if self._cursor.is_far_ahead:
            await self._catch_up(timeout)
        seconds = self._transport.timeout if timeout is None else timeout
        future = self._coalescer.submit(self._ticket, item, seconds)
        return shaped(item, await self._answer(future))

    async def _catch_up(self, timeout: float | None) -> None:
        """Wait until the server's store has taken enough, where too many inputs are kept."""
        if self._cursor.open is None:
            seconds = self._transport.timeout if timeout is None else timeout
            await self._wait_for_store(self._now() + seconds)

    async def _answer(self, future: asyncio.Future[Floats]) -> Floats:
        try:
            return await future
        except asyncio.CancelledError:
            self._coalescer.abandon(self._ticket)
            raise

    async def _settle(self, item: Item, timeout: float | None) -> Floats:
        """Learn the outcome of an open item: wait for it, or send it again."""
        seconds = self._transport.timeout if timeout is None else timeout
        future = self._coalescer.rejoin(self._ticket, seconds)
        if future is None:
            return await self._ride(item, timeout)
        return shaped(item, await self._answer(future))

    async def _send(self, item: Item, timeout: float | None) -> Floats:
        """Send an item; it is open from here until its outcome is known."""
        cursor = self._cursor
        end = self._now() + (self._transport.timeout if timeout is None else timeout)
        if cursor.is_far_ahead and cursor.open is None:
            await self._wait_for_store(end)
        cursor.open = item
        while True:
            outcome = await self._try(item, end)
            if isinstance(outcome, SessionNotFound) and cursor.survives:
                await self._recover(end)
            elif isinstance(outcome, StoreUnavailable) and self._now() + STORE_PAUSE < end:
                await asyncio.sleep(STORE_PAUSE)
            else:
                break
        if isinstance(outcome, CarouselError):
            cursor.fail(outcome)
            raise outcome
        return shaped(item, outcome)

    async def _try(self, item: Item, end: float) -> Floats | CarouselError:
        """One item's outcome; raises what happened to the whole call."""
        cursor = self._cursor
        request = pb.StepRequest()
        fill(request, [cursor], [item])
        try:
            response = await self._transport.step(
                request,
                shard=cursor.shard,
                timeout=max(end - self._now(), 0.001),
                patient=cursor.survives,
            )
        except MessageTooLarge:
            # Whichever way it was too large, sending it again won't help; the server knows.
            cursor.learn(await self._transport.call(_session_calls.get(self.name), None))
            raise
        except CarouselError as error:
            if is_refusal(error):
                cursor.fail(error)
            raise
        self._transport.link.tell_notices([cursor.name], response.notices)
        outcome = outcomes(response)[0]
        if not isinstance(outcome, CarouselError):
            settle(cursor, item, response, 0)
        return outcome

    async def _recover(self, end: float, *, moving: bool = False) -> None:
        """The server that had the session is gone: attach, and send again what was not stored."""
        cursor = self._cursor
        made = await self._ask(_session_calls.reattach(cursor, moving=moving), end)
        self._transport.link.tell(Event("session_recovered", session=self.name))
        went_back = made.step_index < cursor.durable
        steps = [] if went_back else list(cursor.replay(made.step_index))
        cursor.reattach(made)
        for index, item in steps:
            try:
                await self._replay(index, item, end)
            except SessionNotFound:
                return await self._recover(end, moving=moving)  # it was lost once more

    async def _replay(self, index: int, item: Item | Said, end: float) -> None:
        """Feed once more what was not stored."""
        if isinstance(item, Said):
            said, reply = item.again(self.handle), pb.GenerateResponse

            def once(seconds: float) -> Awaitable[None]:
                return self._transport.exhaust(PATH, said, reply, timeout=seconds)

            await self._persist(once, end)
            return
        request = pb.StepRequest(handles=[self.handle], step_indexes=[index])
        fill_item(request, item)
        response = await self._transport.step(
            request,
            shard=self._cursor.shard,
            timeout=max(end - self._now(), 0.001),
            patient=True,
        )
        outcome = outcomes(response)[0]
        if isinstance(outcome, CarouselError):
            raise outcome

    async def _persist(self, call: Callable[[float], Awaitable[Result]], end: float) -> Result:
        """Make a call, given its seconds, until it comes through or the time is up."""
        attempt = 0
        while True:
            try:
                return await call(max(end - self._now(), 0.001))
            except CarouselError as error:
                attempt += 1
                wait = delay(attempt)
                if not may_go_better(error) or self._now() + wait >= end:
                    raise
                self._transport.link.tell(Event("retry", attempt=attempt, delay=wait, error=error))
            await asyncio.sleep(wait)

    async def _ask(self, call: Call[Result], end: float) -> Result:
        """Make a unary call until it comes through or the time is up."""
        return await self._persist(lambda seconds: self._transport.call(call, seconds), end)

    async def _wait_for_store(self, end: float) -> None:
        """Until the server has stored enough that no more inputs must be kept."""
        cursor = self._cursor
        while cursor.is_far_ahead:
            cursor.stored((await self._ask(_session_calls.get(self.name), end)).durable_index)
            if cursor.is_far_ahead:
                if self._now() >= end:
                    raise far_ahead(cursor)
                await asyncio.sleep(0.05)

    async def _call(
        self, call: Callable[[], Call[Result]], timeout: float | None, *, back: bool = False
    ) -> Result:
        """A call about this session that may be made again; where the session survives its server,
        until it comes through or the time is up, and the session is brought back first.

        `call` makes it anew: what it says of the handle may have changed. `back`: it may give the
        session a lower step index.
        """
        if not self._cursor.survives:
            return await self._transport.call(call(), timeout)
        end = self._now() + (self._transport.timeout if timeout is None else timeout)
        while True:
            try:
                return await self._persist(
                    lambda seconds: self._transport.call(call(), seconds), end
                )
            except SessionAtRest:
                await self._recover(end, moving=back)

    async def _move(
        self,
        call: Callable[[], Call[session_pb2.Session]],
        timeout: float | None,
        *,
        back: bool = False,
    ) -> None:
        """A call that gives the session a new handle."""
        self._renew(await self._call(call, timeout, back=back))

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _ready(self, timeout: float | None) -> None:
        """Bring what is unfinished to its end, so that the step index is known."""
        if self._generation is not None:
            self._stop_generation()
            if self._generation.index_known:
                self._generation = None
            else:
                # A new incarnation: nothing of the cut generation can be committed after it.
                await self._move(
                    lambda: _session_calls.rewind(self.name, self.handle, steps=0), timeout
                )
        item = self._cursor.open
        if item is not None:
            try:
                await self._settle(item, timeout)
            except CarouselError:
                if self._cursor.open is not None:
                    raise

    def _stop_generation(self) -> None:
        if self._generation is not None:
            self._generation.cancel(why="the generation was cut short: its session was used")

    def _renew(self, made: session_pb2.Session) -> None:
        self._coalescer.forget(self._cursor.handle)
        super()._renew(made)
