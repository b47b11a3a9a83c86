"""The step protocol: exactly once, fenced, atomic, isolated; spoken without the client library."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
import torch

from carousel import tensors
from carousel.model import load
from carousel.server import Settings, engine
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import session_pb2, session_service_pb2
from tests.conftest import RunningServer
from tests.processes import PATIENCE
from tests.server.contract import Floats, Wire, error_of

RNG = np.random.default_rng(0)


@pytest.fixture
def wire(channel: grpc.Channel) -> Wire:
    return Wire(channel)


def features(*shape: int) -> Floats:
    return RNG.standard_normal(shape).astype(np.float32)


def reference(settings: Settings, inputs: Floats, model: str = "tiny") -> Floats:
    """What the reference cells make of one sequence: [T, D] -> [T, O]."""
    network = load(settings.store / model / "1").double().eval()
    with torch.no_grad():
        y, _ = network(torch.from_numpy(inputs.astype(np.float64))[None], network.initial_rows(1))
    outputs: Floats = y[0].numpy().astype(np.float32)
    return outputs


def test_steps_of_many_sessions_equal_each_sequence_alone(
    server: RunningServer, wire: Wire
) -> None:
    sessions = [wire.create() for _ in range(40)]
    inputs = features(6, 40, 3)
    handles = [session.handle for session in sessions]
    got = np.stack([wire.outputs(handles, [t] * 40, inputs[t]) for t in range(6)], axis=1)
    for number in range(40):
        want = reference(server.settings, inputs[:, number])
        np.testing.assert_allclose(got[number], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cuts", [[50], [1] * 50, [17, 1, 32], [16, 16, 18], [49, 1]])
def test_any_cut_of_a_sequence_into_chunks_gives_the_same_outputs(
    server: RunningServer, wire: Wire, cuts: list[int]
) -> None:
    inputs = features(50, 3)
    handle, index, got = wire.create().handle, 0, []
    for cut in cuts:
        got.append(wire.outputs([handle], [index], inputs[index : index + cut], [cut]))
        index += cut
    want = reference(server.settings, inputs)
    np.testing.assert_allclose(np.concatenate(got), want, rtol=1e-5, atol=1e-6)


def test_the_last_step_again_is_answered_from_memory_and_moves_nothing(wire: Wire) -> None:
    handle = wire.create().handle
    first, second, third = features(3, 1, 3)
    wire.outputs([handle], [0], first)
    answer = wire.outputs([handle], [1], second)
    again = wire.outputs([handle], [1], features(1, 3))
    assert np.array_equal(answer, again)
    other = wire.create().handle
    for index, inputs in enumerate((first, second)):
        wire.outputs([other], [index], inputs)
    assert np.array_equal(wire.outputs([handle], [2], third), wire.outputs([other], [2], third))


def test_the_last_chunk_again_is_answered_from_memory(wire: Wire) -> None:
    handle = wire.create().handle
    chunk = features(40, 3)
    answer = wire.outputs([handle], [0], chunk, [40])
    assert np.array_equal(answer, wire.outputs([handle], [0], chunk, [40]))
    longer = np.concatenate([chunk, features(5, 3)])
    grown = wire.outputs([handle], [0], longer, [45])
    assert np.array_equal(grown[:40], answer)
    assert wire.sessions.GetSession(_get(handle, wire)).step_index == 45


def _get(handle: int, wire: Wire) -> session_service_pb2.GetSessionRequest:
    for session in wire.sessions.ListSessions(
        session_service_pb2.ListSessionsRequest(page_size=1000)
    ).sessions:
        attached = session_service_pb2.GetSessionRequest(name=session.name)
        if session.step_index == 45:
            return attached
    raise AssertionError(handle)


@pytest.mark.parametrize("index", [1, 4, 2**63])
def test_any_other_index_is_refused_with_the_expected_one(wire: Wire, index: int) -> None:
    handle = wire.create().handle
    for step in range(2):
        wire.outputs([handle], [step], features(1, 3))
    wire.outputs([handle], [2], features(1, 3))
    response = wire.step([handle], [index], features(1, 3))
    [error] = response.errors
    assert error.reason == "STEP_CONFLICT"
    assert error.metadata["expected_step"] == "3"
    assert list(response.lengths) == [0]


def test_attach_fences_the_former_handle(wire: Wire) -> None:
    session = wire.create()
    wire.outputs([session.handle], [0], features(1, 3))
    attached = wire.sessions.AttachSession(
        session_service_pb2.AttachSessionRequest(name=session.name)
    )
    assert attached.handle not in (0, session.handle)
    assert attached.step_index == 1
    [error] = wire.step([session.handle], [1], features(1, 3)).errors
    assert error.reason == "SESSION_FENCED"
    wire.outputs([attached.handle], [1], features(1, 3))


def test_a_used_id_does_not_bring_an_old_handle_back(wire: Wire) -> None:
    session = wire.create(session_id="again")
    wire.sessions.DeleteSession(session_service_pb2.DeleteSessionRequest(name=session.name))
    [error] = wire.step([session.handle], [0], features(1, 3)).errors
    assert error.reason == "SESSION_ENDED"
    assert error.metadata["end_reason"] == "CLOSED"
    new = wire.create(session_id="again")
    assert new.handle != session.handle
    [error] = wire.step([session.handle], [0], features(1, 3)).errors
    assert error.reason == "SESSION_FENCED"
    wire.sessions.DeleteSession(session_service_pb2.DeleteSessionRequest(name=new.name))


def test_bad_items_fail_alone_and_the_others_run(wire: Wire) -> None:
    handles = [wire.create().handle for _ in range(6)]
    other_model = wire.create("models/explosive").handle
    inputs = features(8, 3)
    inputs[1, 2] = np.nan
    inputs[2, 0] = np.inf
    response = wire.step(
        [*handles[:4], 12345 << 24, other_model, *handles[4:]],
        [0, 0, 0, 5, 0, 0, 0, 0],
        inputs,
    )
    reasons = {error.item: error.reason for error in response.errors}
    assert reasons == {
        1: "NON_FINITE_INPUT",
        2: "NON_FINITE_INPUT",
        3: "STEP_CONFLICT",
        4: "SESSION_NOT_FOUND",
        5: "MIXED_MODELS",
    }
    assert list(response.lengths) == [1, 0, 0, 0, 0, 0, 1, 1]
    outputs = tensors.decode(response.outputs)
    fresh = [wire.create().handle for _ in range(3)]
    alone = wire.outputs(fresh, [0] * 3, inputs[[0, 6, 7]])
    np.testing.assert_allclose(outputs, alone, rtol=1e-5, atol=1e-6)


def test_a_session_may_stand_twice_in_a_message_and_steps_in_order(wire: Wire) -> None:
    handle, other = wire.create().handle, wire.create().handle
    inputs = features(3, 3)
    got = wire.outputs([handle] * 3, [0, 1, 2], inputs)
    want = [wire.outputs([other], [index], inputs[index : index + 1]) for index in range(3)]
    np.testing.assert_allclose(got, np.concatenate(want), rtol=1e-5, atol=1e-6)


def test_a_row_that_overflows_is_rolled_back_and_quarantined_alone(wire: Wire) -> None:
    good, bad = wire.create("models/explosive"), wire.create("models/explosive")
    handles = [good.handle, bad.handle]
    wire.outputs(handles, [0, 0], np.ones((2, 1), np.float32))
    inputs = np.array([[1.0], [3e38]], np.float32)
    response = wire.step(handles, [1, 1], inputs)
    [error] = response.errors
    assert (error.item, error.reason) == (1, "SESSION_QUARANTINED")
    assert tensors.decode(response.outputs).tolist() == [[2 * (2 * 2 + 2)]]
    state = wire.sessions.GetSession(session_service_pb2.GetSessionRequest(name=bad.name))
    assert state.state == session_pb2.SESSION_STATE_QUARANTINED
    assert state.step_index == 1
    snapshot = wire.sessions.ExportSession(
        session_service_pb2.ExportSessionRequest(name=bad.name)
    ).snapshot
    assert tensors.decode(snapshot.tensors[0].tensor).tolist() == [[2.0]]
    [error] = wire.step([bad.handle], [1], np.ones((1, 1), np.float32)).errors
    assert error.reason == "SESSION_QUARANTINED"
    healed = wire.sessions.RewindSession(
        session_service_pb2.RewindSessionRequest(name=bad.name, steps=0)
    )
    again = wire.outputs([healed.handle], [1], np.ones((1, 1), np.float32))
    assert again.tolist() == [[2 * (2 * 2 + 2)]]


def test_known_durable_steps_that_are_gone_are_data_loss(wire: Wire) -> None:
    handle = wire.create().handle
    response = wire.inference.Step(
        pb.StepRequest(
            handles=[handle],
            step_indexes=[0],
            durable_indexes=[7],
            inputs=tensors.encode(features(1, 3)),
        )
    )
    [error] = response.errors
    assert (error.reason, error.code) == ("STEPS_LOST", grpc.StatusCode.DATA_LOSS.value[0])


@pytest.mark.parametrize(
    ("inputs", "lengths", "reason", "text"),
    [
        (np.zeros((1, 4), np.float32), [], "INPUT_MISMATCH", r"\[1, 3\].*got \[1, 4\]"),
        (np.zeros((2, 3), np.float32), [], "INPUT_MISMATCH", r"\[1, 3\].*got \[2, 3\]"),
        (np.zeros((1, 3), np.int64), [], "INPUT_MISMATCH", "features, got int64"),
        (np.zeros((1, 3), np.float32), [1, 1], "INVALID_FIELD", "lengths must have"),
    ],
)
def test_a_message_that_can_not_be_read_is_refused_whole(
    wire: Wire, inputs: Floats, lengths: list[int], reason: str, text: str
) -> None:
    handle = wire.create().handle
    with pytest.raises(grpc.RpcError) as failure:
        wire.step([handle], [0], inputs, lengths)
    error = error_of(failure.value)
    assert error.reason == reason
    assert re.search(text, error.message)
    wire.outputs([handle], [0], features(1, 3))


def test_chunks_of_no_or_too_many_steps_are_item_errors(
    serve: Callable[..., RunningServer],
) -> None:
    server = serve(max_chunk=8)
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        handles = [wire.create().handle for _ in range(3)]
        response = wire.step(handles, [0] * 3, features(11, 3), [9, 0, 2])
        assert {e.item: e.reason for e in response.errors} == {
            0: "CHUNK_TOO_LONG",
            1: "CHUNK_TOO_LONG",
        }
        assert list(response.lengths) == [0, 0, 2]


def test_tokens_out_of_range_are_item_errors(wire: Wire) -> None:
    handles = [wire.create("models/letters").handle for _ in range(3)]
    response = wire.step(handles, [0] * 3, np.array([3, 11, -1]))
    assert {e.item: e.reason for e in response.errors} == dict.fromkeys(
        (1, 2), "TOKEN_OUT_OF_RANGE"
    )


@pytest.mark.parametrize(
    ("mode", "rows"), [(pb.OUTPUT_MODE_ALL, 5), (pb.OUTPUT_MODE_LAST, 2), (pb.OUTPUT_MODE_NONE, 0)]
)
def test_only_the_wanted_outputs_travel(wire: Wire, mode: int, rows: int) -> None:
    handles = [wire.create().handle for _ in range(2)]
    inputs = features(5, 3)
    response = wire.step(handles, [0, 0], inputs, [3, 2], mode)
    got = tensors.decode(response.outputs)
    assert got.shape == (rows, 2)
    everything = wire.outputs([wire.create().handle for _ in range(2)], [0, 0], inputs, [3, 2])
    if mode == pb.OUTPUT_MODE_LAST:
        np.testing.assert_allclose(got, everything[[2, 4]], rtol=1e-5, atol=1e-6)


def test_one_stream_carries_sessions_of_models_with_other_outputs(wire: Wire) -> None:
    tiny, letters = wire.create("models/tiny").handle, wire.create("models/letters").handle

    def messages() -> Iterator[pb.StreamStepsRequest]:
        for index in range(20):
            for handle, inputs in ((tiny, features(1, 3)), (letters, np.array([index % 11]))):
                step = pb.StepRequest(
                    handles=[handle], step_indexes=[index], inputs=tensors.encode(inputs)
                )
                yield pb.StreamStepsRequest(step=step)

    rows = {tiny: 0, letters: 0}
    for message in wire.inference.StreamSteps(messages(), timeout=PATIENCE):
        assert not message.step.errors
        [handle] = set(message.step.handles)
        got = tensors.decode(message.step.outputs)
        assert got.shape == (len(message.step.handles), {tiny: 2, letters: 11}[handle])
        rows[handle] += len(got)
    assert rows == {tiny: 20, letters: 20}


def test_one_stream_carries_many_sessions_and_outlives_bad_messages(wire: Wire) -> None:
    handles = [wire.create().handle for _ in range(30)]
    inputs = features(4, 30, 3)

    def messages() -> Iterator[pb.StreamStepsRequest]:
        for t in range(4):
            for number, handle in enumerate(handles):
                step = pb.StepRequest(
                    handles=[handle],
                    step_indexes=[t],
                    inputs=tensors.encode(inputs[t, number][None]),
                )
                yield pb.StreamStepsRequest(step=step)
        bad = pb.StepRequest(handles=[handles[0]], step_indexes=[4])
        yield pb.StreamStepsRequest(step=bad)

    outputs: dict[tuple[int, int], Floats] = {}
    failed = []
    for message in wire.inference.StreamSteps(messages(), timeout=PATIENCE):
        failed += [error.reason for error in message.step.errors]
        if not message.step.outputs.data:
            continue
        rows = tensors.decode(message.step.outputs)
        lengths = message.step.lengths or [1] * len(message.step.handles)
        place = 0
        for handle, index, length in zip(
            message.step.handles, message.step.step_indexes, lengths, strict=True
        ):
            if length:
                outputs[handle, index] = rows[place]
            place += length
    assert failed == ["TENSOR_MALFORMED"]
    assert len(outputs) == 120
    others = [wire.create().handle for _ in range(30)]
    for t in range(4):
        want = wire.outputs(others, [t] * 30, inputs[t])
        got = np.stack([outputs[handle, t] for handle in handles])
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_an_index_beyond_all_steps_is_a_conflict_on_a_fresh_session_too(wire: Wire) -> None:
    [error] = wire.step([wire.create().handle], [2**64 - 1], features(1, 3)).errors
    assert error.reason == "STEP_CONFLICT"
    assert str(2**64 - 1) in error.message


def test_a_refusal_at_the_door_does_not_wait_for_the_idle_engine(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SWEEP_SECONDS", 3600.0)
    handle = wire.create().handle
    for _ in range(5):
        [error] = wire.step([handle], [0], np.full((1, 3), np.nan, np.float32)).errors
        assert error.reason == "NON_FINITE_INPUT"


def test_what_could_not_be_answered_in_one_message_is_refused_before_it_runs(
    serve: Callable[..., RunningServer],
) -> None:
    server = serve(max_message_bytes=4 * 1024**2)
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        sessions = [wire.create("models/letters") for _ in range(10)]
        handles = [session.handle for session in sessions]
        with pytest.raises(grpc.RpcError) as failure:
            wire.step(handles, [0] * 10, np.zeros(100_000, np.int32), [10_000] * 10)
        assert error_of(failure.value).reason == "MESSAGE_TOO_LARGE"
        get = session_service_pb2.GetSessionRequest(name=sessions[0].name)
        assert wire.sessions.GetSession(get).step_index == 0
