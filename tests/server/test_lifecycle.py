"""The server's own life: ready, healthy, seen, drained, refused."""

from __future__ import annotations

import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from carousel import tensors
from carousel.model.kernels.kernel import Array
from carousel.server import engine as engine_module
from carousel.server.app import StartError
from carousel.v1 import admin_service_pb2, admin_service_pb2_grpc
from carousel.v1 import inference_service_pb2 as pb
from tests.conftest import RunningServer
from tests.processes import PATIENCE, until
from tests.server.contract import Wire, error_of


def test_health_is_told_for_the_server_each_service_and_each_model(
    server: RunningServer, channel: grpc.Channel
) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    for name in (
        "",
        "carousel.v1.InferenceService",
        "carousel.v1.SessionService",
        "models/tiny",
        "models/king-james/versions/1",
    ):
        status = stub.Check(health_pb2.HealthCheckRequest(service=name)).status
        assert status == health_pb2.HealthCheckResponse.SERVING, name


def test_reflection_knows_every_service(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {
        "carousel.v1.AdminService",
        "carousel.v1.InferenceService",
        "carousel.v1.ModelService",
        "carousel.v1.SessionService",
        "grpc.health.v1.Health",
    } <= set(database.get_services())
    assert database.FindFileContainingSymbol("carousel.v1.InferenceService") is not None


def scrape(server: RunningServer, path: str = "metrics") -> str:
    url = f"http://localhost:{server.server.http_port}/{path}"
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        text: str = answer.read().decode()
        return text


def test_metrics_count_what_happened(serve: Callable[..., RunningServer]) -> None:
    server = serve()
    labels = '{model="tiny",version="1"}'
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        handles = [wire.create().handle for _ in range(5)]
        for index in range(4):
            wire.outputs(handles, [index] * 5, np.zeros((5, 3), np.float32))
        wire.outputs(handles[:1], [3], np.zeros((1, 3), np.float32))  # again: from memory
        wire.step(handles[:1], [9], np.zeros((1, 3), np.float32))  # conflict
        admin = admin_service_pb2_grpc.AdminServiceStub(channel)
        statistics = admin.GetStatistics(admin_service_pb2.GetStatisticsRequest())
    text = scrape(server)
    for line in (
        f"carousel_steps_total{labels} 20.0",
        f"carousel_turn_batch_size_count{labels} 4",
        f"carousel_step_duration_seconds_count{labels} 20",
        f"carousel_sessions{labels} 5.0",
        'carousel_sessions_created_total{model="tiny"} 5.0',
        'carousel_step_duplicates_total{model="tiny"} 1.0',
        'carousel_step_conflicts_total{model="tiny"} 1.0',
        'carousel_steps_failed_total{model="tiny",reason="step_conflict",version="1"} 1.0',
    ):
        assert re.search(re.escape(line.removesuffix(".0")), text), line
    samples = {
        (sample.name, sample.labels["model"]): sample.value
        for family in statistics.families
        for sample in family.samples
        if "le" not in sample.labels
    }
    assert samples["carousel_steps_total", "tiny"] == 20
    assert scrape(server, "healthz") == "alive\n"
    assert scrape(server, "readyz") == "ready\n"


def test_an_engine_that_hangs_is_seen_and_takes_no_work(
    serve: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "STUCK_SECONDS", 0.05)
    server = serve()
    version = server.server.hall.registry.resolve("models/tiny")
    hangs, may_go_on, step = threading.Event(), threading.Event(), version.kernel.step_arrays

    def hang(*args: Array) -> tuple[Array, Array]:
        hangs.set()
        assert may_go_on.wait(PATIENCE)
        return step(*args)

    def age() -> float:
        found = re.search(r"^carousel_turn_age_seconds (\S+)$", scrape(server), re.M)
        assert found is not None
        return float(found[1])

    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        handle = wire.create().handle
        monkeypatch.setattr(version.kernel, "step_arrays", hang)
        request = pb.StepRequest(
            handles=[handle], step_indexes=[0], inputs=tensors.encode(np.zeros((1, 3), np.float32))
        )
        flying = wire.inference.Step.future(request)
        assert hangs.wait(PATIENCE)
        until(lambda: age() > 0.05)
        with pytest.raises(urllib.error.HTTPError, match="503"):
            scrape(server, "readyz")
        may_go_on.set()
        assert not flying.result(PATIENCE).errors
    until(lambda: scrape(server, "readyz") == "ready\n")
    until(lambda: age() == 0)


def test_a_second_server_on_the_same_port_does_not_start(
    server: RunningServer, serve: Callable[..., RunningServer]
) -> None:
    with pytest.raises(StartError, match="port is in use"):
        serve(port=server.server.port)
    with pytest.raises(StartError, match="for HTTP"):
        serve(http_port=server.server.http_port)
    with pytest.raises(StartError, match="kernel must be one of gatewise, fused, onnx, got 'no'"):
        serve(kernel="no")


def test_a_drain_finishes_what_was_sent_and_takes_nothing_new(
    serve: Callable[..., RunningServer],
) -> None:
    server = serve()
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        handle = wire.create().handle
        steps = 16_000
        result: list[int] = []

        def long_call() -> None:
            inputs = np.random.default_rng(0).standard_normal((steps, 3)).astype(np.float32)
            result.append(len(wire.outputs([handle], [0], inputs, [steps])))

        caller = threading.Thread(target=long_call)
        caller.start()
        while caller.is_alive() and not server.server.hall.engine.waiting:
            pass
        admin = admin_service_pb2_grpc.AdminServiceStub(channel)
        admin.DrainServer(admin_service_pb2.DrainServerRequest())
        caller.join(PATIENCE)
        assert result == [steps]
    server.join()


def test_a_drain_ends_open_streams_and_says_why(serve: Callable[..., RunningServer]) -> None:
    server = serve()
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        handle = wire.create().handle
        told = threading.Event()

        def messages() -> Iterator[pb.StreamStepsRequest]:
            inputs = tensors.encode(np.zeros((1, 3), np.float32))
            step = pb.StepRequest(handles=[handle], step_indexes=[0], inputs=inputs)
            yield pb.StreamStepsRequest(step=step)
            told.wait(PATIENCE)  # the stream stays open

        stream = wire.inference.StreamSteps(messages(), timeout=PATIENCE)
        assert list(next(stream).step.handles) == [handle]
        server.loop.call_soon_threadsafe(server.server.drain)
        with pytest.raises(grpc.RpcError) as failure:
            next(stream)
        told.set()
    assert error_of(failure.value).reason == "SERVER_DRAINING"
    server.join()


def test_a_corrupt_model_is_reported_and_does_not_stop_the_others(
    serve: Callable[..., RunningServer], tmp_path: Path
) -> None:
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "1" / "config.json").write_text("{}")
    (tmp_path / "broken" / "1" / "weights.safetensors").write_bytes(b"nonsense")
    server = serve(store=tmp_path)
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        wire.create("models/king-james")
        with pytest.raises(grpc.RpcError) as failure:
            wire.create("models/broken")
    assert error_of(failure.value).reason == "MODEL_NOT_LOADED"


def test_a_message_over_the_limit_is_refused(serve: Callable[..., RunningServer]) -> None:
    server = serve(max_message_bytes=4 * 1024**2)
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        handle = wire.create().handle
        with pytest.raises(grpc.RpcError) as failure:
            wire.step([handle], [0], np.zeros((10, 3 * 2**17), np.float32))
        assert isinstance(failure.value, grpc.Call)
        assert failure.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        wire.outputs([handle], [0], np.zeros((1, 3), np.float32))
