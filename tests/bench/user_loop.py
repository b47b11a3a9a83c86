"""The closed loop as a user writes it: a task for each session, with grpc.aio or AsyncClient."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import grpc
import numpy as np

from carousel.client import AsyncClient
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import inference_service_pb2_grpc, tensor_pb2
from tests.bench.models import INPUT, OUTPUT, POOL, Floats, inputs
from tests.bench.sample import Sample

Step = Callable[[Floats], Awaitable[Floats]]


class UserLoop:
    """A task for each session awaits its steps."""

    def __init__(self, steps: list[Step]) -> None:
        self._sessions = steps
        self._indexes = [0] * len(steps)
        self._inputs = inputs(len(steps))

    async def outputs(self, steps: int, sessions: int) -> Floats:
        found = []
        for _ in range(steps):
            rows = await asyncio.gather(*(self._step(place) for place in range(len(self._indexes))))
            found.append(np.stack(rows[:sessions]))
        return np.stack(found, 1)

    async def run(self, seconds: float) -> Sample:
        latencies: list[float] = []
        end = time.perf_counter() + seconds

        async def go_on(place: int) -> None:
            while True:
                begin = time.perf_counter()
                await self._step(place)
                now = time.perf_counter()
                if now > end:
                    return
                latencies.append(now - begin)

        await asyncio.gather(*(go_on(place) for place in range(len(self._indexes))))
        return Sample(len(latencies), seconds, np.array(latencies))

    async def _step(self, place: int) -> Floats:
        index = self._indexes[place]
        self._indexes[place] = index + 1
        return await self._sessions[place](self._inputs[index % POOL, place])


class UnaryUser(UserLoop):
    """Calls of Step through the generated stub of grpc.aio, one session each."""

    def __init__(self, port: int, handles: list[int]) -> None:
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self._stub = inference_service_pb2_grpc.InferenceServiceStub(self._channel)
        super().__init__([self._session(handle) for handle in handles])

    def _session(self, handle: int) -> Step:
        index = 0

        async def step(x: Floats) -> Floats:
            nonlocal index
            request = pb.StepRequest(
                handles=[handle],
                step_indexes=[index],
                inputs=tensor_pb2.Tensor(
                    data_type=tensor_pb2.DATA_TYPE_FLOAT32, shape=(1, INPUT), data=x.tobytes()
                ),
            )
            index += 1
            response = await self._stub.Step(request)
            if response.errors:
                raise RuntimeError(response.errors[0].message)
            return np.frombuffer(response.outputs.data, np.float32).reshape(OUTPUT)

        return step

    async def close(self) -> None:
        await self._channel.close()


class CoalescedUser(UserLoop):
    """Carousel's own AsyncClient, which makes one message of what its tasks await."""

    @classmethod
    async def open(cls, port: int, model: str, sessions: int) -> CoalescedUser:
        client = AsyncClient(f"127.0.0.1:{port}")
        first = await client.session(model)
        copies = await first.fork(sessions - 1) if sessions > 1 else []
        loop = cls([one.step for one in (first, *copies)])
        loop._client = client
        return loop

    _client: AsyncClient

    async def close(self) -> None:
        await self._client.close()
