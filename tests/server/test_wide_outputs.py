"""Wide outputs that nobody asked for take no memory, and what memory can't hold is refused."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from carousel import tensors
from carousel.model import Features, Linear, ModelConfig, Network, load, save
from carousel.server import sequences
from carousel.server.services.step_answers import STREAM_BYTES, Stream
from carousel.server.work import Answer, Work
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import session_service_pb2 as make
from tests.conftest import RunningServer, running
from tests.processes import PATIENCE
from tests.server.contract import Floats, Wire, error_of

WIDTH = 4096
STEPS = 1000
CHUNK_BYTES = STEPS * WIDTH * 4  # of the outputs that are not asked for
LAST, NONE, ALL = pb.OUTPUT_MODE_LAST, pb.OUTPUT_MODE_NONE, pb.OUTPUT_MODE_ALL
INPUTS = np.random.default_rng(2).standard_normal((STEPS, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with two models of one unit, whose heads are wide; `both` reads backward too."""
    store = tmp_path_factory.mktemp("wide")
    torch.manual_seed(3)
    config = ModelConfig(cell="gru", layers=1, hidden_size=1, input=Features(1), head=Linear(WIDTH))
    save(store / "wide" / "1", Network(config))
    save(store / "both" / "1", Network(replace(config, bidirectional=True)))
    with running(store=store, shipped=False) as server:
        yield server


@pytest.fixture
def wire(wide: RunningServer) -> Iterator[Wire]:
    with grpc.insecure_channel(wide.target) as channel:
        yield Wire(channel)


def handle_of_new(wire: Wire) -> int:
    return wire.create("models/wide").handle


def last_output(server: RunningServer, inputs: Floats) -> Floats:
    """What the reference cells make of a sequence, at its end: [O]."""
    network = load(server.settings.store / "wide" / "1").double().eval()
    with torch.no_grad():
        y, _ = network(torch.from_numpy(inputs).double()[None], network.initial_rows(1))
    output: Floats = y[0, -1].numpy().astype(np.float32)
    return output


@contextmanager
def allocating_at_most(limit: int) -> Iterator[None]:
    """Of what Python and numpy allocate, in all threads."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit


def step_message(handles: list[int], mode: pb.OutputMode.ValueType) -> pb.StepRequest:
    return pb.StepRequest(
        handles=handles,
        step_indexes=[0] * len(handles),
        lengths=[STEPS] * len(handles),
        inputs=tensors.encode(np.concatenate([INPUTS] * len(handles))),
        output_mode=mode,
    )


def by_step(wire: Wire, request: pb.StepRequest) -> list[pb.StepResponse]:
    return [wire.inference.Step(request, timeout=PATIENCE)]


def by_stream(wire: Wire, request: pb.StepRequest) -> list[pb.StepResponse]:
    messages = iter([pb.StreamStepsRequest(step=request)])
    return [answer.step for answer in wire.inference.StreamSteps(messages, timeout=PATIENCE)]


@pytest.mark.parametrize("ask", [by_step, by_stream])
@pytest.mark.parametrize(("mode", "rows"), [(LAST, 4), (NONE, 0)])
def test_chunks_keep_no_outputs_that_are_not_asked_for(
    wide: RunningServer, wire: Wire, ask: Any, mode: pb.OutputMode.ValueType, rows: int
) -> None:
    handles = [handle_of_new(wire) for _ in range(4)]
    request = step_message(handles, mode)
    with allocating_at_most(CHUNK_BYTES):
        answers = ask(wire, request)
    assert not any(answer.errors for answer in answers)
    got = np.concatenate([tensors.decode(answer.outputs) for answer in answers])
    assert got.shape == (rows, WIDTH)
    if rows:
        want = np.tile(last_output(wide, INPUTS), (rows, 1))
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert len(wide.server.hall.engine.table.chunk_replies) == 0
    again = np.concatenate([tensors.decode(answer.outputs) for answer in ask(wire, request)])
    assert np.array_equal(again, got)
    assert wire.outputs(handles, [STEPS] * 4, INPUTS[:4]).shape == (4, WIDTH)  # nothing moved


@pytest.mark.parametrize("first", [ALL, LAST, NONE])
@pytest.mark.parametrize("second", [LAST, NONE])
def test_a_retry_that_asks_for_no_more_than_the_last_output_is_answered(
    wire: Wire, first: int, second: int
) -> None:
    handle, other = handle_of_new(wire), handle_of_new(wire)
    want = wire.outputs([other], [0], INPUTS[:9], [9], LAST)
    wire.outputs([handle], [0], INPUTS[:9], [9], first)
    got = wire.outputs([handle], [0], INPUTS[:9], [9], second)
    assert np.array_equal(got, want if second == LAST else want[:0])


@pytest.mark.parametrize(("length", "mode"), [(9, ALL), (8, LAST), (8, NONE), (1, ALL), (1, LAST)])
def test_outputs_that_were_not_asked_for_are_a_conflict_in_a_retry(
    wire: Wire, length: int, mode: int
) -> None:
    handle = handle_of_new(wire)
    want = wire.outputs([handle], [0], INPUTS[:9], [9], LAST)
    [error] = wire.step([handle], [0], INPUTS[:length], [length], mode).errors
    assert (error.reason, error.metadata["expected_step"]) == ("STEP_CONFLICT", "9")
    assert np.array_equal(wire.outputs([handle], [0], INPUTS[:9], [9], LAST), want)


@pytest.mark.parametrize("first", [ALL, LAST, NONE])
def test_of_a_chunk_that_is_half_done_only_the_rest_runs(
    wide: RunningServer, wire: Wire, first: int
) -> None:
    handle = handle_of_new(wire)
    wire.outputs([handle], [0], INPUTS[:20], [20], first)
    got = wire.outputs([handle], [0], INPUTS[:50], [50], LAST)
    np.testing.assert_allclose(got[0], last_output(wide, INPUTS[:50]), rtol=1e-4, atol=1e-5)
    assert np.array_equal(wire.outputs([handle], [0], INPUTS[:50], [50], LAST), got)


def test_a_restored_session_answers_the_same_retries(wire: Wire) -> None:
    session = wire.create("models/wide")
    want = wire.outputs([session.handle], [0], INPUTS[:9], [9], LAST)
    kept = wire.sessions.ExportSession(make.ExportSessionRequest(name=session.name))
    restored = wire.sessions.ImportSession(make.ImportSessionRequest(snapshot=kept.snapshot))
    assert np.array_equal(wire.outputs([restored.handle], [0], INPUTS[:9], [9], LAST), want)
    [error] = wire.step([restored.handle], [0], INPUTS[:1]).errors
    assert error.reason == "STEP_CONFLICT"


def test_a_stream_is_not_read_further_while_its_chunks_gather_many_outputs() -> None:
    async def check() -> None:
        stream = Stream("", "", None)
        steps = STREAM_BYTES // WIDTH // 4
        inputs = np.zeros((steps, 1), np.float32)
        for mode, calm in ((LAST, True), (NONE, True), (ALL, False)):
            work = Work([1], [0], inputs, stream.deliver, lengths=np.array([steps]), mode=mode)
            stream.expect(work, WIDTH)
            assert stream.calm.is_set() == calm
            one = np.zeros(1, np.int64)
            stream.deliver(Answer(work, one, np.zeros(1, np.int64), np.zeros((0, WIDTH), "f4")))
            await asyncio.sleep(0)
            assert stream.flying_bytes == 0

    asyncio.run(check())


def predict(
    wire: Wire, lengths: list[int], mode: pb.OutputMode.ValueType, model: str = "wide"
) -> Floats:
    inputs = np.resize(INPUTS, (sum(lengths), 1))
    request = pb.PredictRequest(
        model=f"models/{model}", lengths=lengths, inputs=tensors.encode(inputs), output_mode=mode
    )
    return tensors.decode(wire.inference.Predict(request, timeout=PATIENCE).outputs)


@pytest.mark.parametrize("mode", [ALL, LAST])
def test_a_sequence_whose_outputs_do_not_fit_is_predicted_in_parts(
    wide: RunningServer,
    wire: Wire,
    monkeypatch: pytest.MonkeyPatch,
    mode: pb.OutputMode.ValueType,
) -> None:
    lengths = [7, 101, 30, 80, 1]
    want = predict(wire, lengths, mode)
    kernel = wide.server.hall.registry.resolve("models/wide", "").kernel
    sizes: list[int] = []

    def counted(name: str) -> None:
        run = getattr(kernel, name)

        def call(x: torch.Tensor, *others: torch.Tensor) -> Any:
            sizes.append(x.shape[0] * x.shape[1])
            return run(x, *others)

        monkeypatch.setattr(kernel, name, call)

    for name in ("chunk", "sequences"):
        counted(name)
    monkeypatch.setattr(sequences, "PADDED_BYTES", 20 * WIDTH * 4)
    np.testing.assert_allclose(predict(wire, lengths, mode), want, rtol=1e-5, atol=1e-6)
    assert sorted(sizes) == [1, 10, 2 * 7, *[20] * 10]


@pytest.mark.parametrize("mode", [ALL, LAST])
def test_what_reads_backward_has_no_parts_and_must_fit(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, mode: pb.OutputMode.ValueType
) -> None:
    monkeypatch.setattr(sequences, "PADDED_BYTES", 100 * WIDTH * 4)
    assert len(predict(wire, [100, 100, 7], mode, "both")) == (3 if mode == LAST else 207)
    with allocating_at_most(CHUNK_BYTES), pytest.raises(grpc.RpcError) as failure:
        predict(wire, [7, 101], mode, "both")
    error = error_of(failure.value)
    assert error.reason == "CHUNK_TOO_LONG"
    assert "at most 100 steps, got 101" in error.message


def test_predictions_share_a_padded_batch_only_while_their_outputs_fit() -> None:
    lengths = np.array([9, 1, 1, 5, 4, 4, 2, 8])
    groups = list(sequences._groups(lengths, 10))
    assert sorted(place for group in groups for place in group) == list(range(8))
    assert all(len(group) * lengths[group].max() <= 10 for group in groups)
    assert len(groups) < 8


def test_predictions_are_those_of_each_sequence_alone_in_any_cut(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = predict(wire, [5, 3, 2, 9], ALL)
    monkeypatch.setattr(sequences, "PADDED_BYTES", 10 * WIDTH * 4)
    np.testing.assert_allclose(predict(wire, [5, 3, 2, 9], ALL), whole, rtol=1e-5, atol=1e-6)
    ends = [4, 7, 9, 18]
    last = predict(wire, [5, 3, 2, 9], LAST)
    np.testing.assert_allclose(last, whole[ends], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("lengths", "mode"), [([8000], ALL), ([1000] * 8, ALL), ([1] * 20_000, LAST)]
)
def test_predictions_that_no_message_holds_are_refused_before_they_run(
    wire: Wire, lengths: list[int], mode: pb.OutputMode.ValueType
) -> None:
    with allocating_at_most(CHUNK_BYTES), pytest.raises(grpc.RpcError) as failure:
        predict(wire, lengths, mode)
    assert error_of(failure.value).reason == "MESSAGE_TOO_LARGE"
