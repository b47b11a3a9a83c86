"""Overload: steps that arrive by a Poisson process, faster than they can be served.

Latency counts from the scheduled arrival. What is refused is not sent again: its sessions are at
the same step the next time that their turn comes.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

import numpy as np

from carousel.v1 import inference_service_pb2 as pb
from tests.bench.child import cpu_seconds
from tests.bench.closed_loop import ClosedLoop, Group, Shape
from tests.bench.models import OUTPUT
from tests.bench.sample import Sample
from tests.bench.wire import WireError

WARM_UP = 2.0  # seconds in which queues fill, which are not counted
DRAIN = 60.0  # seconds that what is on its way at the end may take


class Overload(ClosedLoop):
    """Messages at a rate, each for the group of sessions that was idle longest."""

    def __init__(
        self, port: int, shape: Shape, handles: list[int], rate: float, server: int
    ) -> None:
        """`rate` in steps a second; `server` is its process."""
        super().__init__(port, shape, handles)
        self._rate = rate / shape.per_message
        self._random = np.random.default_rng(23)
        self._ready: deque[Group] = deque()
        self._begin = 0.0
        self._server = server

    async def open(self) -> None:
        await super().open()
        self._ready.extend(self.groups)
        for connection in self._connections:
            connection.may_refuse = True

    async def run(self, seconds: float) -> Sample:
        """Go on for so long after a warm-up; then wait for what is on its way."""
        self._steps, self._latencies = 0, list[float]()
        self._refused = self._unsent = 0
        self._idle = asyncio.get_running_loop().create_future()
        due = time.perf_counter()
        self._begin = due + WARM_UP
        self._end = self._begin + seconds
        used: list[float] = []  # by the server, of CPU, when the counted time begins
        asyncio.get_running_loop().call_later(
            WARM_UP, lambda: used.append(cpu_seconds(self._server))
        )
        while due < self._end:
            due += self._random.exponential(1 / self._rate)
            wait = due - time.perf_counter()
            if wait > 0.0005:
                await asyncio.sleep(wait)
            self._send_next(due)
        used.append(cpu_seconds(self._server))
        counted = self._steps
        await self._drain()
        extra = {
            "refused_per_second": self._refused / seconds,
            "unsent": self._unsent / seconds,
            "counted_server_cpu_us": (used[-1] - used[0]) * 1e6 / max(1, counted),
        }
        return Sample(self._steps, seconds, np.array(self._latencies), extra)

    async def _drain(self) -> None:
        if self._flying:
            await asyncio.wait((self._idle,), timeout=DRAIN)
            self._check(late=not self._idle.done())

    def _send_next(self, due: float) -> None:
        self._check(late=False)
        if not self._ready:
            self._unsent += self._shape.per_message
            return
        group = self._ready.popleft()
        group.refused = 0
        self._flying += 1
        self._send(group)
        group.sent = due

    def _take_unary(self, group: Group, message: bytes) -> None:
        if len(message) < 4 * OUTPUT * len(group.handles):
            refused = len(pb.StepResponse.FromString(message).errors)
            group.refused = refused or len(group.handles)
        self._done(group, time.perf_counter())

    def _take_streamed(self, message: bytes) -> None:
        response = pb.StreamStepsResponse.FromString(message).step
        now = time.perf_counter()
        refused = {error.item for error in response.errors}
        for item, handle in enumerate(response.handles):
            group = self._by_handle[handle]
            group.left -= 1
            group.refused += item in refused
            if not group.left:
                self._done(group, now)

    def _done(self, group: Group, now: float) -> None:
        self._flying -= 1
        count = len(group.handles)
        if group.refused not in (0, count):
            raise WireError("a message was refused in part")
        group.index += not group.refused
        self._ready.append(group)
        if self._begin <= now <= self._end:
            if group.refused:
                self._refused += count
            else:
                self._steps += count
                self._latencies.append(now - group.sent)
        if now > self._end and not self._flying and not self._idle.done():
            self._idle.set_result(None)
