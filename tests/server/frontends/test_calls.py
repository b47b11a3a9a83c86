"""Calls through front ends: any of them will do, whatever the call and whatever came before."""

from __future__ import annotations

import gc
import time
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
from carousel.server.fair_turn import FairTurn
from carousel.server.frontends import engine_end
from carousel.server.frontends.link import RING_BYTES
from carousel.server.work import Work
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import session_service_pb2 as make
from carousel.v1.model_service_pb2 import ListModelsRequest
from tests.conftest import RunningServer
from tests.oracle import Oracle
from tests.processes import PATIENCE, until
from tests.server.contract import Wire, error_of
from tests.server.engines import held_up

INPUTS = np.random.default_rng(3).standard_normal((12, 3)).astype(np.float32)
STEP = {
    "grpc_type": "unary",
    "grpc_service": "carousel.v1.InferenceService",
    "grpc_method": "Step",
}


def messages(handle: int, indexes: list[int]) -> list[pb.StreamStepsRequest]:
    return [
        pb.StreamStepsRequest(
            step=pb.StepRequest(
                handles=[handle],
                step_indexes=[index],
                inputs=tensors.encode(INPUTS[index : index + 1]),
            )
        )
        for index in indexes
    ]


def count(server: RunningServer, what: str, **labels: str) -> float:
    registry = server.server.metrics.registry
    return registry.get_sample_value(f"grpc_server_{what}_total", STEP | labels) or 0.0


def index_of(wire: Wire, name: str) -> int:
    return wire.sessions.GetSession(make.GetSessionRequest(name=name)).step_index


def test_a_session_steps_through_whichever_front_end_its_next_call_comes_to(
    channels: list[grpc.Channel], model_store: Path
) -> None:
    one, other = map(Wire, channels)
    handle = one.create().handle
    got = [
        (one if index % 2 else other).outputs([handle], [index], INPUTS[index : index + 1])[0]
        for index in range(4)
    ]
    for wire, begin in ((one, 4), (other, 8)):
        stream = wire.inference.StreamSteps(
            iter(messages(handle, list(range(begin, begin + 4)))), timeout=PATIENCE
        )
        for response in stream:
            assert not response.step.errors
            got += list(tensors.decode(response.step.outputs))
    oracle = Oracle(model_store / "tiny" / "1")
    wanted, _ = oracle.run(INPUTS, oracle.initial)
    np.testing.assert_allclose(np.stack(got), wanted, rtol=1e-5, atol=1e-6)


def test_a_step_sent_again_through_another_front_end_is_answered_from_memory(
    channels: list[grpc.Channel],
) -> None:
    one, other = map(Wire, channels)
    session = one.create()
    first = one.step([session.handle], [0], INPUTS[:1])
    again = other.step([session.handle], [0], INPUTS[:1])
    assert again.outputs == first.outputs
    assert index_of(one, session.name) == 1
    conflict = other.step([session.handle], [5], INPUTS[:1])
    assert [error.reason for error in conflict.errors] == ["STEP_CONFLICT"]


def test_messages_larger_than_the_ring_go_through(channels: list[grpc.Channel]) -> None:
    wire = Wire(channels[0])
    handles = [wire.create("models/king-james").handle for _ in range(20)]
    tokens = np.resize(np.arange(50), 20 * 500)
    outputs = wire.outputs(handles, [0] * 20, tokens, [500] * 20)
    assert outputs.nbytes > RING_BYTES
    assert np.isfinite(outputs).all()
    with pytest.raises(grpc.RpcError) as failure:
        wire.step(handles, [500] * 20, np.zeros((20, RING_BYTES // 40), np.float32))
    assert error_of(failure.value).reason == "INPUT_MISMATCH"


def test_every_front_end_tells_of_health_and_of_all_services(
    channels: list[grpc.Channel],
) -> None:
    for channel in channels:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", "carousel.v1.InferenceService", "models/tiny"):
            status = stub.Check(health_pb2.HealthCheckRequest(service=name)).status
            assert status == health_pb2.HealthCheckResponse.SERVING
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="models/none"))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()
        with pytest.raises(grpc.RpcError) as unknown:
            stub.Check(health_pb2.HealthCheckRequest(service="models/none"))
        assert error_of(unknown.value).code == grpc.StatusCode.NOT_FOUND
        services = ProtoReflectionDescriptorDatabase(channel).get_services()
        assert "carousel.v1.InferenceService" in services


def settle(server: RunningServer, channels: list[grpc.Channel]) -> None:
    """Until what front ends counted before has been added: a call that nobody else makes was."""
    listed = {"grpc_service": "carousel.v1.SessionService", "grpc_method": "ListSessions"}
    before = count(server, "handled", grpc_code="OK", **listed)
    for wire in map(Wire, channels):
        wire.sessions.ListSessions(make.ListSessionsRequest())
    until(lambda: count(server, "handled", grpc_code="OK", **listed) == before + len(channels))


def test_what_front_ends_count_adds_up(server: RunningServer, channels: list[grpc.Channel]) -> None:
    settle(server, channels)
    done = count(server, "handled", grpc_code="OK")
    refused = count(server, "handled", grpc_code="INVALID_ARGUMENT")
    for wire in map(Wire, channels):
        handle = wire.create().handle
        for index in range(3):
            wire.step([handle], [index], INPUTS[:1])
        with pytest.raises(grpc.RpcError):
            wire.step([], [], INPUTS[:1])
    until(lambda: count(server, "handled", grpc_code="OK") == done + 6)
    until(lambda: count(server, "handled", grpc_code="INVALID_ARGUMENT") == refused + 2)
    seconds = server.server.metrics.registry.get_sample_value(
        "grpc_server_handling_seconds_count", STEP
    )
    assert seconds is not None
    assert seconds >= done + 6


def test_nothing_is_kept_of_calls_that_are_answered(channels: list[grpc.Channel]) -> None:
    """Also of those whose turn ran while their record was read: nobody else was there."""
    wire = Wire(channels[0])
    handle = wire.create().handle
    for index in range(12):
        wire.outputs([handle], [index], INPUTS[index : index + 1])
    stream = wire.inference.StreamSteps(iter(messages(wire.create().handle, [*range(12)])))
    assert sum(len(one.step.handles) for one in stream) == 12

    def kept() -> int:
        gc.collect()
        return sum(isinstance(one, engine_end._Running) for one in gc.get_objects())

    until(lambda: kept() < 3)  # the latest may be on their way


def test_a_step_whose_caller_gave_up_is_not_committed(
    server: RunningServer, channels: list[grpc.Channel]
) -> None:
    wire = Wire(channels[0])
    session = wire.create()
    step: Any = wire.inference.Step
    with held_up(server):
        waiting = step.future(messages(session.handle, [0])[0].step)
        until(lambda: bool(queued(server)))
        waiting.cancel()
        until(lambda: queued(server)[0].cancelled)
    assert index_of(wire, session.name) == 0
    wire.outputs([session.handle], [0], INPUTS[:1])


def test_a_deadline_is_the_engine_s_too(
    server: RunningServer, channels: list[grpc.Channel]
) -> None:
    wire = Wire(channels[0])
    session = wire.create()
    step: Any = wire.inference.Step
    begin = time.monotonic()
    with held_up(server):
        waiting = step.future(messages(session.handle, [0])[0].step, timeout=100)
        until(lambda: bool(queued(server)))
        assert begin + 90 < queued(server)[0].deadline < begin + 110
    waiting.result()


def queued(server: RunningServer) -> list[Work]:
    """What the engine has not looked at."""
    return [work for _, work in server.server.hall.engine._inbox]


def test_callers_without_a_tenant_take_turns_by_their_own_addresses(
    server: RunningServer, channels: list[grpc.Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    parties, of = list[str](), FairTurn.of

    def seen(turn: FairTurn, party: str) -> Any:
        parties.append(party)
        return of(turn, party)

    monkeypatch.setattr(FairTurn, "of", seen)
    with grpc.insecure_channel(f"ipv4:127.0.0.1:{server.server.port}") as channel:
        Wire(channel).models.ListModels(ListModelsRequest())
    assert parties == ["ipv4:127.0.0.1"]
