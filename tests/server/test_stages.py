"""The clock of the stages of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from carousel import tensors
from carousel.server import gatekeeper, outbox, rpc, steps
from carousel.server.services.inference_service import InferenceService
from carousel.server.stages import STAGES, StageClock, Stages
from carousel.server.turns import Turns
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import inference_service_pb2_grpc, session_service_pb2, session_service_pb2_grpc
from tests.conftest import running

Message = Callable[[int], pb.StepRequest]


@pytest.fixture
def clocked(model_store: Path) -> Iterator[tuple[StageClock, grpc.Channel]]:
    """A server that was started with a clock around it."""
    clock = StageClock()
    with (
        clock.running(),
        running(store=model_store, shipped=False) as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        yield clock, channel


def messages_of(channel: grpc.Channel, sessions: int) -> Message:
    """Messages of the next step of some sessions, by step index."""
    stub = session_service_pb2_grpc.SessionServiceStub(channel)
    new = session_service_pb2.CreateSessionRequest(model="models/tiny")
    handles = [stub.CreateSession(new).handle for _ in range(sessions)]
    inputs = tensors.encode(np.ones((sessions, 3), np.float32))
    return lambda index: pb.StepRequest(
        handles=handles, step_indexes=[index] * sessions, inputs=inputs
    )


def check(stages: Stages, *, messages: int, steps: int) -> None:
    assert (stages.messages, stages.steps) == (messages, steps)
    assert sum(stages.passed.values()) == pytest.approx(stages.whole, rel=1e-9)
    assert all(stages.passed[stage] > 0 for stage in STAGES)


def test_the_stages_of_messages_are_their_whole(
    clocked: tuple[StageClock, grpc.Channel],
) -> None:
    clock, channel = clocked
    stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
    one, many = messages_of(channel, 1), messages_of(channel, 5)
    for index in range(3):
        assert not stub.Step(one(index)).errors
        assert not stub.Step(many(index)).errors
    stages = clock.take()
    check(stages, messages=6, steps=18)
    assert stages.turns == 6
    # Nobody else was there, so whoever passed a stage was all that was worked for.
    for stage in ("decode", "validate", "gather", "compute", "commit", "encode"):
        assert stages.worked[stage] == pytest.approx(stages.passed[stage], rel=1e-6)


def test_messages_of_a_stream_have_the_same_stages(
    clocked: tuple[StageClock, grpc.Channel],
) -> None:
    clock, channel = clocked
    stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
    message = messages_of(channel, 2)
    requests = (pb.StreamStepsRequest(step=message(index)) for index in range(4))
    assert len(list(stub.StreamSteps(requests))) >= 1
    check(clock.take(), messages=4, steps=8)


def test_refused_messages_are_not_told_of(clocked: tuple[StageClock, grpc.Channel]) -> None:
    clock, channel = clocked
    stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
    message = messages_of(channel, 1)
    assert stub.Step(message(7)).errors
    assert clock.take().messages == 0
    assert not stub.Step(message(0)).errors
    check(clock.take(), messages=1, steps=1)


def test_the_clock_leaves_nothing_behind() -> None:
    def functions() -> list[object]:
        named = (rpc.parser, rpc.serializer, gatekeeper.admit_together, outbox.hand_out)
        return [*named, steps.encode, Turns.turn, Turns._compute, InferenceService._decode]

    before = functions()
    with StageClock().running():
        assert not set(before) & set(functions())
    assert functions() == before
