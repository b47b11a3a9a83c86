"""Callers that are gone when an answer comes: no fault of the server, and nobody is told of one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from carousel.server.access.gate import OpenGate
from carousel.server.access.rules import RULES
from carousel.server.hot_calls import Handlers, HotCalls
from carousel.server.metrics import Metrics
from carousel.server.rpc import Context, Line, add_service
from carousel.server.services import SERVICES
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import inference_service_pb2_grpc, model_pb2, model_service_pb2_grpc
from tests.processes import PATIENCE, until


class _Late:
    """Answers once its caller has gone, as if gRPC had not said so yet."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return None

    async def StreamSteps(self, line: Line, context: Context) -> None:
        await self._until_gone()
        await line.write(pb.StreamStepsResponse())

    async def Generate(self, request: Any, context: Context) -> AsyncIterator[pb.GenerateResponse]:
        await self._until_gone()
        yield pb.GenerateResponse()

    async def _until_gone(self) -> None:
        self.entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()


class _Reads:
    """Takes requests to their end, and tells of it."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return None

    async def StreamSteps(self, line: Line, context: Context) -> None:
        self.entered.set()
        while await line.read() is not None:
            pass

    async def UploadModelVersion(
        self, requests: AsyncIterator[Any], context: Context
    ) -> model_pb2.ModelVersion:
        self.entered.set()
        async for _ in requests:
            pass
        return model_pb2.ModelVersion()


Call = Callable[[grpc.aio.Channel], Any]
steps: Any = inference_service_pb2_grpc.InferenceServiceStub
models: Any = model_service_pb2_grpc.ModelServiceStub


@pytest.mark.parametrize(
    "begin",
    [
        lambda channel: steps(channel).StreamSteps(),
        lambda channel: steps(channel).Generate(pb.GenerateRequest()),
    ],
    ids=["StreamSteps", "Generate"],
)
def test_an_answer_to_a_caller_who_has_gone_is_no_fault(begin: Call) -> None:
    assert asyncio.run(_taken_back(_Late(), begin)) == {"CANCELLED": 1}


@pytest.mark.parametrize(
    "begin",
    [
        lambda channel: steps(channel).StreamSteps(),
        lambda channel: models(channel).UploadModelVersion(),
    ],
    ids=["StreamSteps", "UploadModelVersion"],
)
@pytest.mark.parametrize("is_hot", [True, False], ids=["hot", "by grpc.aio alone"])
def test_a_stream_that_breaks_off_is_not_one_that_came_to_its_end(
    begin: Call, is_hot: bool
) -> None:
    """Its session would not be known as one that comes back, its upload would be taken as whole."""
    assert asyncio.run(_taken_back(_Reads(), begin, is_hot=is_hot)) == {"CANCELLED": 1}


async def _taken_back(
    service: _Late | _Reads, begin: Call, *, is_hot: bool = True
) -> dict[str, float]:
    """How a call ended, as the server counts it, that its caller took back."""
    metrics, server = Metrics(), grpc.aio.server()
    hot: Handlers = {}
    for name in ("inference", "model"):
        hot |= add_service(server, SERVICES[name], service, metrics, OpenGate(RULES))
    port = server.add_insecure_port("localhost:0")
    await server.start()
    if is_hot:
        HotCalls(server, hot)
    async with grpc.aio.insecure_channel(f"localhost:{port}") as channel, asyncio.timeout(PATIENCE):
        call = begin(channel)
        await service.entered.wait()
        call.cancel()
    await asyncio.to_thread(until, lambda: handled(metrics))
    await server.stop(None)
    return handled(metrics)


def handled(metrics: Metrics) -> dict[str, float]:
    """Calls that have ended, by code."""
    [family] = metrics.rpc_handled.collect()
    return {
        sample.labels["grpc_code"]: sample.value
        for sample in family.samples
        if sample.name.endswith("_total") and sample.value
    }
