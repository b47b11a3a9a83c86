"""Callers that are gone when an answer comes: no fault of the server, and nobody is told of one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from carousel.server.access.gate import OpenGate
from carousel.server.access.rules import RULES
from carousel.server.hot_calls import HotCalls
from carousel.server.metrics import Metrics
from carousel.server.rpc import Context, Line, add_service
from carousel.server.services import SERVICES
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import inference_service_pb2_grpc
from tests.processes import until


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


Call = Callable[[inference_service_pb2_grpc.InferenceServiceStub], Any]


@pytest.mark.parametrize(
    "begin",
    [lambda stub: stub.StreamSteps(), lambda stub: stub.Generate(pb.GenerateRequest())],
    ids=["StreamSteps", "Generate"],
)
def test_an_answer_to_a_caller_who_has_gone_is_no_fault(begin: Call) -> None:
    async def main() -> dict[str, float]:
        late, metrics, server = _Late(), Metrics(), grpc.aio.server()
        hot = add_service(server, SERVICES["inference"], late, metrics, OpenGate(RULES))
        port = server.add_insecure_port("localhost:0")
        await server.start()
        HotCalls(server, hot)
        async with grpc.aio.insecure_channel(f"localhost:{port}") as channel:
            call = begin(inference_service_pb2_grpc.InferenceServiceStub(channel))
            await late.entered.wait()
            call.cancel()
        await asyncio.to_thread(until, lambda: handled(metrics))
        await server.stop(None)
        return handled(metrics)

    assert asyncio.run(asyncio.wait_for(main(), 30)) == {"CANCELLED": 1}


def handled(metrics: Metrics) -> dict[str, float]:
    """Calls that have ended, by code."""
    [family] = metrics.rpc_handled.collect()
    return {
        sample.labels["grpc_code"]: sample.value
        for sample in family.samples
        if sample.name.endswith("_total") and sample.value
    }
