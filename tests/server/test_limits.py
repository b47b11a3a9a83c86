"""What one caller or one connection may take: a refusal, or a cut, and nobody else is held up."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import numpy as np
import pytest

from carousel import tensors
from carousel.client import AsyncClient, Client
from carousel.client._errors import translate
from carousel.errors import ServerUnreachable, StreamStalled
from carousel.server.app import StartError
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import (
    inference_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    training_service_pb2,
    training_service_pb2_grpc,
)
from tests.conftest import RunningServer, running
from tests.processes import PATIENCE, until
from tests.server.contract import Wire

Serve = Callable[..., RunningServer]


@pytest.fixture(scope="module")
def impatient(model_store: object) -> Iterator[RunningServer]:
    """A server that waits for nobody."""
    with running(
        store=model_store, reader_timeout=0.2, upload_timeout=0.2, stream_idle=0.3
    ) as server:
        yield server


def cut(server: RunningServer, reason: str) -> float:
    value = server.server.metrics.registry.get_sample_value(
        "carousel_streams_cut_total", {"reason": reason}
    )
    assert value is not None
    return value


async def to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


def live_streams(server: RunningServer) -> int:
    return len(server.server.calls.flows)


def test_a_second_server_on_the_same_port_says_so_and_does_not_start(
    server: RunningServer, serve: Serve
) -> None:
    with pytest.raises(StartError, match="the port is in use"):
        serve(port=server.server.port)


def test_who_does_not_read_is_cut_with_an_error_and_counted(impatient: RunningServer) -> None:
    """Two megabytes of answers, for a client that does not widen its window."""
    before = cut(impatient, "reader")

    async def main() -> grpc.RpcError:
        narrow = [("grpc.http2.bdp_probe", 0)]
        async with (
            grpc.aio.insecure_channel(impatient.target, options=narrow) as channel,
            AsyncClient(impatient.target) as client,
        ):
            session = await client.session("tiny")
            stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
            call = stub.StreamSteps()
            for message in much(session.handle):
                await call.write(message)
            await asyncio.to_thread(until, lambda: cut(impatient, "reader") > before)
            await asyncio.to_thread(until, lambda: live_streams(impatient) == 0)
            with pytest.raises(grpc.RpcError) as failure:
                await to_the_end(call)
            return failure.value

    error = translate(asyncio.run(main()), tls=None)
    assert isinstance(error, StreamStalled)
    assert "0.2 s are allowed" in error.message
    assert error.metadata["what"] == "reader"


def much(handle: int) -> Iterator[pb.StreamStepsRequest]:
    """What has two megabytes of answers."""
    steps = 16_384
    inputs = tensors.encode(np.zeros((steps, 3), np.float32))
    for number in range(16):
        step = pb.StepRequest(
            handles=[handle], step_indexes=[number * steps], lengths=[steps], inputs=inputs
        )
        yield pb.StreamStepsRequest(step=step)


def test_a_caller_that_goes_while_answers_wait_for_it_is_no_fault_of_the_server(
    server: RunningServer,
) -> None:
    def ended(code: str) -> float:
        labels = {
            "grpc_type": "bidi_stream",
            "grpc_service": "carousel.v1.InferenceService",
            "grpc_method": "StreamSteps",
            "grpc_code": code,
        }
        registry = server.server.metrics.registry
        return registry.get_sample_value("grpc_server_handled_total", labels) or 0.0

    def waits() -> bool:
        """For its caller, and not only for a moment."""
        live = tuple(server.server.calls.flows._live)
        return any(flow.writing and time.monotonic() - flow.writing > 0.2 for flow in live)

    cancelled, internal = ended("CANCELLED"), ended("INTERNAL")
    narrow = [("grpc.http2.bdp_probe", 0)]
    with grpc.insecure_channel(server.target, options=narrow) as channel:
        wire = Wire(channel)
        call = wire.inference.StreamSteps(endless(list(much(wire.create().handle))))
        until(waits)
        call.cancel()
        until(lambda: ended("CANCELLED") + ended("INTERNAL") > cancelled + internal)
    assert ended("INTERNAL") == internal


def test_a_stream_on_which_nothing_is_said_is_ended_and_the_next_step_opens_another(
    impatient: RunningServer,
) -> None:
    async def main() -> None:
        async with AsyncClient(impatient.target) as client:
            session = await client.session("tiny")
            for index in range(2):
                before = cut(impatient, "idle")
                await session.step([0.0, 0.0, 0.0])
                assert session.step_index == index + 1
                await asyncio.to_thread(until, lambda: cut(impatient, "idle") > before)  # noqa: B023

    asyncio.run(main())


def test_a_silent_stream_gets_a_typed_error(impatient: RunningServer) -> None:
    with grpc.insecure_channel(impatient.target) as channel:
        call = Wire(channel).inference.StreamSteps(endless([]))
        with pytest.raises(grpc.RpcError) as failure:
            next(call)
    error = translate(failure.value, tls=None)
    assert isinstance(error, StreamStalled)
    assert "0.3 s are allowed" in error.message


def endless(messages: list[Any]) -> Iterator[Any]:
    """These, and then nothing, until the call is over."""
    yield from messages
    threading.Event().wait(20)


@pytest.mark.parametrize("service", ["models", "datasets"])
def test_an_upload_that_brings_nothing_is_cut(impatient: RunningServer, service: str) -> None:
    async def silent() -> AsyncIterator[Any]:
        if service == "datasets":
            yield training_service_pb2.UploadDatasetRequest(
                header=training_service_pb2.DatasetHeader(
                    dataset_id="slow", size_bytes=10, sha256=bytes(32), file_name="x.txt"
                )
            )
        await asyncio.Event().wait()

    async def main() -> grpc.RpcError:
        async with grpc.aio.insecure_channel(impatient.target) as channel:
            upload: Any
            if service == "models":
                upload = model_service_pb2_grpc.ModelServiceStub(channel).UploadModelVersion
            else:
                upload = training_service_pb2_grpc.TrainingServiceStub(channel).UploadDataset
            with pytest.raises(grpc.RpcError) as failure:
                await upload(silent())
            return failure.value

    error = translate(asyncio.run(main()), tls=None)
    assert isinstance(error, StreamStalled)
    assert error.metadata["what"] == "upload"
    with Client(impatient.target) as client:  # the half of a dataset is kept, and not locked
        list(client.datasets.list() if service == "datasets" else client.list_models())


def test_metadata_beyond_the_limit_is_refused_and_below_it_is_not(server: RunningServer) -> None:
    with grpc.insecure_channel(
        server.target, options=[("grpc.max_metadata_size", 2**20)]
    ) as channel:
        models = Wire(channel).models
        request = model_service_pb2.ListModelsRequest()
        for _ in range(20):  # gRPC's own soft limit would refuse some
            models.ListModels(request, metadata=(("x-note", "a" * 14_000),))
        with pytest.raises(grpc.RpcError) as failure:
            models.ListModels(request, metadata=(("x-note", "a" * 17_000),))
    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_connections_beyond_the_limit_are_closed_and_there_is_room_again_afterwards(
    serve: Serve,
) -> None:
    server = serve(max_connections=2)
    address = ("localhost", server.server.port)
    first, second = (socket.create_connection(address) for _ in range(2))
    for one in (first, second):  # taken: the server speaks
        one.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        assert one.recv(1)
    third = socket.create_connection(address)
    third.settimeout(PATIENCE)
    assert closed(third)
    for one in (first, second, third):
        one.close()

    def answers() -> bool:
        with Client(server.target, timeout=PATIENCE) as client, suppress(ServerUnreachable):
            list(client.list_models())
            return True
        return False

    until(answers)


def closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_an_idle_connection_is_closed(serve: Serve) -> None:
    server = serve(connection_idle=0.1)
    with socket.create_connection(("localhost", server.server.port)) as connection:
        connection.settimeout(PATIENCE)
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        while connection.recv(4096):
            pass  # the end comes


def test_a_client_goes_on_when_its_connection_has_become_too_old(serve: Serve) -> None:
    server = serve(connection_age=0.05, connection_grace=0.05)

    async def main() -> None:
        async with AsyncClient(server.target) as client:
            session = await client.session("tiny")
            for index in range(40):
                await session.step([1.0, 0.0, 0.0])
                assert session.step_index == index + 1
                await asyncio.sleep(0.01)

    asyncio.run(main())
