"""W3: single steps beside requests of 256 steps; what counts is the latency of the single ones."""

from __future__ import annotations

import asyncio
import time

import numpy as np

from carousel.v1 import inference_service_pb2 as pb
from tests.bench import messages
from tests.bench.models import INPUT
from tests.bench.open_loop import chunk
from tests.bench.sample import Sample
from tests.bench.wire import Connection, WireError, request_headers

LONG = 256


class MixedLoop:
    """Every session is a closed loop; the last `long` of them send 256 steps in each request."""

    def __init__(self, port: int, handles: list[int], long: int) -> None:
        self._port = port
        self._long = set(handles[len(handles) - long :])
        self._indexes = dict.fromkeys(handles, 0)
        self._sent: dict[int, float] = {}
        values = np.random.default_rng(19).standard_normal((LONG, INPUT), dtype=np.float32)
        self._values = values.tobytes()
        self._latencies: list[float] = []
        self._steps = self._long_requests = 0
        self._end = 0.0

    async def open(self) -> None:
        """The long requests have a connection of their own: they are other clients."""
        headers = request_headers(f"/{messages.INFERENCE}/StreamSteps", f"127.0.0.1:{self._port}")
        self._wires = []
        for _ in range(2):
            connection = await Connection.to("127.0.0.1", self._port)
            self._wires.append((connection, connection.open(headers, self._take)))

    async def close(self) -> None:
        for connection, _ in self._wires:
            connection.close()

    async def run(self, seconds: float) -> Sample:
        self._latencies, self._steps, self._long_requests = [], 0, 0
        self._end = time.perf_counter() + seconds
        for handle in self._indexes:
            self._send(handle)
        while self._sent:
            await asyncio.sleep(0.01)
            for connection, _ in self._wires:
                if connection.failure:
                    raise connection.failure
            if time.perf_counter() > self._end + 30:
                raise WireError(f"{len(self._sent)} requests have no answer")
        extra = {"long_requests": float(self._long_requests)}
        return Sample(self._steps, seconds, np.array(self._latencies), extra)

    def _send(self, handle: int) -> None:
        is_long = handle in self._long
        length = LONG if is_long else 1
        place = self._indexes[handle] % LONG * INPUT * 4
        values = self._values if is_long else self._values[place : place + INPUT * 4]
        connection, stream = self._wires[is_long]
        self._sent[handle] = time.perf_counter()
        connection.send(stream, chunk(handle, self._indexes[handle], values, length))
        self._indexes[handle] += length

    def _take(self, message: bytes) -> None:
        response = pb.StreamStepsResponse.FromString(message).step
        if response.errors:
            self._wires[0][0].failure = WireError(str(response.errors[0]))
        now = time.perf_counter()
        for handle in response.handles:
            begin = self._sent.pop(handle)
            if now > self._end:
                continue
            if handle in self._long:
                self._steps += LONG
                self._long_requests += 1
            else:
                self._steps += 1
                self._latencies.append(now - begin)
            self._send(handle)
