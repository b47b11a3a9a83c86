"""AsyncStepping: how a session's items are sent, and brought to their end when something breaks."""

# ruff: noqa: ASYNC109 - a timeout is a gRPC deadline here, which the server is told

from __future__ import annotations

import asyncio

from carousel.client import _session_calls
from carousel.client._async_transport import AsyncTransport
from carousel.client._coalescer import Coalescer
from carousel.client._columns import fill, outcomes, update
from carousel.client._cursor import Item, shaped
from carousel.client._errors import is_refusal
from carousel.client._inputs import Floats
from carousel.client._session_view import SessionView
from carousel.client._turn import Turn
from carousel.errors import CarouselError, MessageTooLarge
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import session_pb2

COALESCED_STEPS = 64
COALESCED_BYTES = 2**18
"""Chunks of more travel alone, so that nobody's step waits behind them on the wire."""


class AsyncStepping(SessionView):
    """The part of AsyncSession below its public methods."""

    def __init__(
        self, transport: AsyncTransport, coalescer: Coalescer, made: session_pb2.Session
    ) -> None:
        super().__init__(made)
        self._transport = transport
        self._coalescer = coalescer
        self._ticket = coalescer.ticket(self._cursor)
        self._turn = Turn()

    async def _ride(self, item: Item, timeout: float | None) -> Floats:
        """Send an item: with others where it is small, or else alone."""
        if item.steps > COALESCED_STEPS or len(item.data) > COALESCED_BYTES:
            return await self._send(item, timeout)
        seconds = self._transport.timeout if timeout is None else timeout
        future = self._coalescer.submit(self._ticket, item, seconds)
        return shaped(item, await self._answer(future))

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
        cursor.open = item
        request = pb.StepRequest()
        fill(request, [cursor], [item])
        try:
            response = await self._transport.step(request, shard=cursor.shard, timeout=timeout)
        except MessageTooLarge:
            # Whichever way it was too large, sending it again won't help; the server knows.
            cursor.learn(await self._transport.call(_session_calls.get(self.name), timeout))
            raise
        except CarouselError as error:
            if is_refusal(error):
                cursor.fail(error)
            raise
        outcome = outcomes(response)[0]
        if isinstance(outcome, CarouselError):
            cursor.fail(outcome)
            raise outcome
        cursor.succeed(item)
        update(cursor, response, 0)
        return shaped(item, outcome)

    async def _ready(self, timeout: float | None) -> None:
        """Bring what is unfinished to its end, so that the step index is known."""
        if self._generation is not None:
            self._stop_generation()
            if self._generation.index_known:
                self._generation = None
            else:
                # A new incarnation: nothing of the cut generation can be committed after it.
                call = _session_calls.rewind(self.name, self.handle, steps=0)
                self._renew(await self._transport.call(call, timeout))
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
