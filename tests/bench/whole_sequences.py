"""Whole sequences: a closed loop of Predict, with the lengths of W2."""

from __future__ import annotations

import asyncio
import time

import numpy as np

from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import tensor_pb2
from tests.bench import messages
from tests.bench.models import INPUT, OUTPUT, Floats, Ints, lengths
from tests.bench.sample import Sample
from tests.bench.wire import Connection, WireError, request_headers


def sequences(count: int) -> tuple[Floats, Ints]:
    """All steps of `count` sequences, one after the other [steps, D], and their lengths."""
    long = lengths(count)
    shape = (int(long.sum()), INPUT)
    return np.random.default_rng(13).standard_normal(shape, dtype=np.float32), long


class PredictLoop:
    """`flying` calls of `count` sequences each are always on their way."""

    def __init__(self, port: int, model: str, count: int, flying: int) -> None:
        self._port, self._count, self._flying = port, count, flying
        values, long = sequences(count)
        self._steps = len(values)
        self._request = pb.PredictRequest(
            model=f"models/{model}",
            lengths=long.tolist(),
            inputs=tensor_pb2.Tensor(
                data_type=tensor_pb2.DATA_TYPE_FLOAT32, shape=values.shape, data=values.tobytes()
            ),
        ).SerializeToString()

    async def open(self) -> None:
        self._connection = await Connection.to("127.0.0.1", self._port)
        self._headers = request_headers(f"/{messages.INFERENCE}/Predict", f"127.0.0.1:{self._port}")

    async def close(self) -> None:
        self._connection.close()

    async def outputs(self, steps: int, sessions: int) -> Floats:
        """All rows of one call: [steps, O]."""
        response = pb.PredictResponse.FromString(await self._call())
        return np.frombuffer(response.outputs.data, np.float32).reshape(-1, OUTPUT)

    async def run(self, seconds: float) -> Sample:
        latencies: list[float] = []
        end = time.perf_counter() + seconds

        async def go_on() -> None:
            while (begin := time.perf_counter()) < end:
                await self._call()
                latencies.append(time.perf_counter() - begin)

        start = time.perf_counter()
        await asyncio.gather(*(go_on() for _ in range(self._flying)))
        taken = time.perf_counter() - start
        return Sample(self._steps * len(latencies), taken, np.array(latencies))

    async def _call(self) -> bytes:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._connection.call(self._headers, self._request, future.set_result)
        while not future.done():
            await asyncio.wait((future,), timeout=30)
            if self._connection.failure:
                raise self._connection.failure
            if not future.done():
                raise WireError("Predict gave no answer within 30 s")
        return future.result()
