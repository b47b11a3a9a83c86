"""The null service: the same messages through the same registration, and nothing computed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np

from carousel.server.rpc import Context, Line
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import tensor_pb2
from tests.bench.models import OUTPUT

ANSWERS = np.random.default_rng(3).standard_normal((65_536, OUTPUT), dtype=np.float32)


def answer(request: pb.StepRequest) -> pb.StepResponse:
    count = len(request.handles)
    return pb.StepResponse(
        handles=request.handles,
        step_indexes=request.step_indexes,
        outputs=tensor_pb2.Tensor(
            data_type=tensor_pb2.DATA_TYPE_FLOAT32,
            shape=(count, OUTPUT),
            data=ANSWERS[:count].tobytes(),
        ),
    )


class NullInference:
    """Stands in for InferenceService in a server that is the real one otherwise."""

    def __init__(self, hall: object) -> None:
        pass

    def drain(self) -> None:
        """There is nothing to finish."""

    async def Step(self, request: pb.StepRequest, context: Context) -> pb.StepResponse:
        return answer(request)

    async def StreamSteps(self, line: Line, context: Context) -> None:
        while (request := await line.read()) is not None:
            await line.write(pb.StreamStepsResponse(step=answer(request.step)))

    async def Predict(self, request: Any, context: Context) -> Any:
        raise NotImplementedError

    Trace = Generate = StepStates = Predict


class PlainInference(NullInference):
    """The same for grpc.aio without anything of ours around it."""

    async def StreamSteps(  # type: ignore[override]
        self, requests: AsyncIterator[pb.StreamStepsRequest], context: Context
    ) -> AsyncIterator[pb.StreamStepsResponse]:
        async for request in requests:
            yield pb.StreamStepsResponse(step=answer(request.step))
