"""The queue of calls for whole sequences: one runs at a time, tenants in turn as for steps."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from carousel.server.door import SHED, Door, Lane
from carousel.server.loaded import LoadedVersion
from carousel.server.scheduler import BULK_SHARE
from carousel.server.shares import Shares
from carousel.server.tenants import party_now
from carousel.server.tracing.trace import NO_TRACER, Trace, Tracer, current

ALONE = np.array([0, 1])  # the bounds of a turn with one call


@dataclass(slots=True, eq=False)
class Call:
    """A call that waits for its turn."""

    version: LoadedVersion
    steps: int
    arrived: float
    turn: asyncio.Future[None]
    waiting_since: float
    trace: Trace = field(default_factory=current.get)


class CallQueue:
    """At most `limit` calls, half of them of one tenant. Of the event loop's thread."""

    def __init__(self, limit: int, tracer: Tracer = NO_TRACER) -> None:
        self._tracer = tracer
        self.door = Door(limit=limit, tenant_limit=limit // 2)
        self._shares = Shares()
        self._waiting: dict[int, deque[Call]] = {}  # by lane
        self._bulk_owed = 0.0  # steps
        self._busy = False

    @asynccontextmanager
    async def turn(
        self, version: LoadedVersion, steps: int, *, tenant: str, bulk: bool = False
    ) -> AsyncIterator[None]:
        """Wait for a call's turn; the next call comes when the block ends. Raises QueueFull."""
        lane = self.door.lane(tenant, party=party_now(), bulk=bulk)
        if lane.room() < 1:
            error, why = lane.refusal("whole sequences")
            version.metrics.rejected(why)
            raise error
        now, future = time.monotonic(), asyncio.get_running_loop().create_future()
        call = Call(version, steps, now, future, waiting_since=now)
        call.trace.set_model(version.name)
        lane.enter(1, call.arrived)
        try:
            await self._wait(call, lane)
            begin = time.monotonic()
            try:
                yield
            finally:
                self._go_on()
                end = time.monotonic()
                self._tracer.turn(version.name, [call], ALONE, begin=begin, computed=end, end=end)
        finally:
            lane.leave(1, 0)

    async def _wait(self, call: Call, lane: Lane) -> None:
        if not self._busy:
            self._busy = True
            return
        self._waiting.setdefault(lane.number, deque()).append(call)
        self._shed(lane)
        try:
            await call.turn
        except asyncio.CancelledError:
            if not call.turn.cancelled() and call.turn.exception() is None:
                self._go_on()  # its turn had just come
            raise

    def _go_on(self) -> None:
        """Let the next call have its turn."""
        still = {lane: _those_left(calls) for lane, calls in self._waiting.items()}
        self._waiting = {lane: calls for lane, calls in still.items() if calls}
        self._busy = bool(self._waiting)
        if not self._busy:
            return
        lanes = np.fromiter(self._waiting, np.int64)
        bulk, rounds = lanes & 1, self._shares.rounds(lanes)
        bulk_steps = [self._waiting[lane][0].steps for lane in lanes[bulk == 1].tolist()]
        bulk_first = bool(bulk_steps) and self._bulk_owed >= min(bulk_steps)
        lane = int(lanes[np.lexsort((rounds, bulk ^ bulk_first))[0]])
        call = self._waiting[lane].popleft()
        left = np.array([len(self._waiting[lane])])
        self._shares.take(np.array([lane]), np.array([call.steps]), left, self._waiting)
        if lane & 1:
            self._bulk_owed = max(0.0, self._bulk_owed - call.steps)
        elif bulk_steps:
            self._bulk_owed += call.steps / BULK_SHARE
        call.turn.set_result(None)

    def _shed(self, lane: Lane) -> None:
        """Refuse the newest bulk call where more wait than may, of the tenant or in all."""
        if lane.inside + lane.other.inside > self.door.tenant_limit:
            lanes = [lane.number | 1]
        elif self.door.inside > self.door.limit:
            lanes = [number for number in self._waiting if number & 1]
        else:
            return
        calls = [call for number in lanes for call in _those_left(self._waiting.get(number, ()))]
        if calls:
            newest = max(calls, key=lambda call: call.arrived)
            newest.version.metrics.rejected(SHED)
            newest.turn.set_exception(self.door.full("bulk work made room for interactive work"))


def _those_left(calls: Iterable[Call]) -> deque[Call]:
    """Without those that were shed or whose caller is gone."""
    return deque(call for call in calls if not call.turn.done())
