"""W2, the open loop: whole sequences arrive by a Poisson process, whether or not others are done.

Latency counts from the scheduled arrival: a client that is held up does not hide the wait.
"""

from __future__ import annotations

import asyncio
import time

import numpy as np

from carousel.server.varint import varint
from carousel.v1 import inference_service_pb2 as pb
from tests.bench import messages
from tests.bench.models import INPUT, lengths
from tests.bench.sample import Sample
from tests.bench.wire import Connection, WireError, request_headers


def chunk(handle: int, index: int, values: bytes, length: int) -> bytes:
    """A StreamStepsRequest of one chunk."""
    shape = messages.field(2, varint(length) + varint(INPUT))
    return messages.field(
        1,
        messages.handles([handle])
        + messages.indexes(index, 1)
        + messages.field(3, varint(length))
        + messages.field(5, b"\x08\x01" + shape + messages.field(3, values)),
    )


class OpenLoop:
    """Each sequence is one chunk for the session that was used longest ago, on one stream."""

    def __init__(self, port: int, handles: list[int], rate: float) -> None:
        """`rate` in sequences a second."""
        self._port, self._handles, self._rate = port, handles, rate
        self._indexes = dict.fromkeys(handles, 0)
        self._due: dict[int, tuple[float, int]] = {}
        self._place = 0
        self._random = np.random.default_rng(17)
        self._values = self._random.standard_normal((330, INPUT), dtype=np.float32).tobytes()
        self._latencies: list[float] = []
        self._late: list[float] = []
        self._steps = 0

    async def open(self) -> None:
        self._connection = await Connection.to("127.0.0.1", self._port)
        headers = request_headers(f"/{messages.INFERENCE}/StreamSteps", f"127.0.0.1:{self._port}")
        self._stream = self._connection.open(headers, self._take)

    async def close(self) -> None:
        self._connection.close()

    async def run(self, seconds: float) -> Sample:
        self._latencies, self._late, self._steps = [], [], 0
        count = max(1, round(self._rate * seconds))
        arrivals = np.cumsum(self._random.exponential(1 / self._rate, count))
        long = lengths(count, seed=int(self._random.integers(2**31))).tolist()
        begin = time.perf_counter()
        for due, length in zip((begin + arrivals).tolist(), long, strict=True):
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            self._send(due, length)
        end = time.perf_counter() + 30
        while self._due:
            await asyncio.sleep(0.001)
            if self._connection.failure or time.perf_counter() > end:
                raise self._connection.failure or WireError("sequences have no answer")
        taken = time.perf_counter() - begin
        extra = {"sent_late_p99_ms": float(np.percentile(self._late, 99)) * 1e3}
        return Sample(self._steps, taken, np.array(self._latencies), extra)

    def _send(self, due: float, length: int) -> None:
        handle = self._handles[self._place % len(self._handles)]
        self._place += 1
        if handle in self._due:
            raise WireError("more sequences wait than there are sessions: the load is too high")
        values = self._values[: length * INPUT * 4]
        self._late.append(time.perf_counter() - due)
        self._connection.send(self._stream, chunk(handle, self._indexes[handle], values, length))
        self._indexes[handle] += length
        self._due[handle] = (due, length)

    def _take(self, message: bytes) -> None:
        response = pb.StreamStepsResponse.FromString(message).step
        now = time.perf_counter()
        if response.errors:
            self._connection.failure = WireError(str(response.errors[0]))
        for handle in response.handles:
            due, length = self._due.pop(handle)
            self._latencies.append(now - due)
            self._steps += length
