"""The stream of steps: what it says of a server that is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from carousel.client import AsyncClient
from carousel.client._step_stream import StepStream
from carousel.errors import CarouselError, ServerUnreachable
from carousel.v1 import inference_service_pb2 as pb
from tests.processes import PATIENCE

Code = grpc.StatusCode


def broken(code: grpc.StatusCode) -> grpc.GenericRpcHandler:
    """Ends every stream as gRPC itself does when one breaks: without details of ours."""

    async def stream(_: object, context: Any) -> None:
        await context.abort(code, "Internal error from Core")

    handler: Any = grpc.stream_stream_rpc_method_handler(stream)
    return grpc.method_handlers_generic_handler(
        "carousel.v1.InferenceService", {"StreamSteps": handler}
    )


@pytest.mark.parametrize("code", [Code.INTERNAL, Code.CANCELLED, Code.UNKNOWN, Code.UNAVAILABLE])
def test_a_stream_that_breaks_is_a_server_that_is_lost_by_whatever_word(
    code: grpc.StatusCode,
) -> None:
    async def main() -> CarouselError:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((broken(code),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        told: asyncio.Future[CarouselError] = asyncio.get_running_loop().create_future()

        def give_up(error: CarouselError) -> bool:
            told.set_result(error)
            return False

        message = pb.StreamStepsRequest()
        async with AsyncClient(f"127.0.0.1:{port}") as client:
            stream = StepStream(
                client._transport,
                0,
                take=lambda response: None,
                unanswered=lambda: [message],
                give_up=give_up,
            )
            stream.send([message])
            error = await asyncio.wait_for(told, PATIENCE)
            await stream.close()
        await server.stop(None)
        return error

    error = asyncio.run(main())
    assert isinstance(error, ServerUnreachable)
    assert isinstance(error.__cause__, grpc.RpcError)
