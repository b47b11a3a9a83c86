"""Held states in turns: the numbers of sessions, isolated, bounded, and nothing kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from carousel import tensors
from carousel.server.held.queue import HeldQueue, HeldWork
from carousel.server.loaded import LoadedVersion
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import model_service_pb2, model_service_pb2_grpc
from tests.conftest import RunningServer, running
from tests.processes import PATIENCE, until
from tests.server.contract import error_of
from tests.server.engines import held_up, version_of
from tests.server.holder import Holder, features, outputs

RNG = np.random.default_rng(0)
OLD, NEW = b"0123456789abcdef" * 2, b"fedcba9876543210" * 2


@pytest.fixture(scope="module")
def own(model_store: Path) -> Iterator[RunningServer]:
    """A server that nobody else uses meanwhile."""
    with running(store=model_store, shipped=False) as server:
        yield server


def test_outputs_are_those_of_sessions_in_the_same_batches_to_the_bit(hold: Holder) -> None:
    wire = hold.wire
    sessions = [wire.create().handle for _ in range(5)]
    states, index = [b""] * 5, np.zeros(5, int)
    for lengths in ([1] * 5, [40, 1, 17, 16, 3], [1] * 5, [1, 2, 1, 33, 1]):
        inputs = features(sum(lengths), 3)
        response = hold(states, inputs, lengths)
        want = wire.outputs(sessions, index.tolist(), inputs, lengths)
        assert np.array_equal(outputs(response), want)
        states, index = list(response.states), index + lengths
        assert list(response.step_indexes) == index.tolist()
        assert response.model_version == "models/tiny/versions/1"


def test_one_state_can_be_used_again_and_by_many_at_once(hold: Holder) -> None:
    [state] = hold([b""], features(1, 3)).states
    chunk = features(20, 3)
    twice = outputs(hold([state, state], np.concatenate([chunk, chunk]), [20, 20]))
    assert np.array_equal(twice[:20], twice[20:])
    assert np.array_equal(outputs(hold([state], chunk, [20])), outputs(hold([state], chunk, [20])))


@pytest.mark.parametrize(
    ("mode", "chosen"),
    [
        (pb.OUTPUT_MODE_ALL, slice(None)),
        (pb.OUTPUT_MODE_LAST, [19, 20, 42]),
        (pb.OUTPUT_MODE_NONE, slice(0)),
    ],
)
def test_only_the_wanted_outputs_travel_and_the_states_are_the_same(
    hold: Holder, mode: int, chosen: slice | list[int]
) -> None:
    inputs, lengths = features(43, 3), [20, 1, 22]
    everything = hold([b""] * 3, inputs, lengths)
    response = hold([b""] * 3, inputs, lengths, mode)
    assert np.array_equal(outputs(response), outputs(everything)[chosen])
    assert list(response.states) == list(everything.states)


def test_items_that_can_not_run_fail_alone(hold: Holder) -> None:
    inputs = features(6, 3)
    inputs[1, 2], inputs[4, 0] = np.nan, np.inf
    states = [b"", b"", b"x" * 40, b"x" * 40, b""]
    response = hold(states, inputs, [1, 1, 1, 2, 1])
    assert {error.item: error.reason for error in response.errors} == {
        1: "NON_FINITE_INPUT",
        2: "SEAL_BROKEN",
        3: "NON_FINITE_INPUT",  # the inputs are looked at before the state
    }
    assert list(response.lengths) == [1, 0, 0, 0, 1]
    assert np.array_equal(
        tensors.decode(response.outputs), outputs(hold([b""] * 2, inputs[[0, 5]]))
    )
    assert hold.reasons([b""] * 2, np.array([3, 11]), model="models/letters") == {
        1: "TOKEN_OUT_OF_RANGE"
    }


def test_chunks_of_no_or_too_many_steps_are_item_errors(
    serve: Callable[..., RunningServer], connect: Callable[[RunningServer], Holder]
) -> None:
    hold = connect(serve(shipped=False, max_chunk=8))
    assert hold.reasons([b""] * 3, features(11, 3), [9, 0, 2]) == dict.fromkeys(
        range(2), "CHUNK_TOO_LONG"
    )


@pytest.mark.parametrize("lengths", [[1, 1, 1], [20, 20, 20]])
def test_a_result_that_is_not_finite_fails_alone_and_gives_no_state(
    hold: Holder, lengths: list[int]
) -> None:
    clean = np.ones((sum(lengths), 1), np.float32) / 2**20
    steps = np.cumsum(lengths)
    bad = clean.copy()
    bad[steps[1] - 1] = 3e38
    [start] = hold([b""], clean[:1], model="models/explosive").states
    response = hold([start] * 3, bad, lengths, model="models/explosive")
    [error] = response.errors
    assert (error.item, error.reason) == (1, "NON_FINITE_RESULT")
    assert not response.states[1]
    fine = hold([start] * 3, clean, lengths, model="models/explosive")
    assert [response.states[i] for i in (0, 2)] == [fine.states[i] for i in (0, 2)]
    others = np.r_[0 : steps[0], steps[1] : steps[2]]
    assert np.array_equal(tensors.decode(response.outputs), outputs(fine)[others])


def steps_of(version: LoadedVersion) -> float:
    version.metrics.turns.count()
    steps: float = version.metrics.steps._value.get()
    return steps


def test_states_of_many_callers_share_a_turn(
    own: RunningServer, connect: Callable[[RunningServer], Holder]
) -> None:
    hold = connect(own)
    counted = own.server.metrics.registry.get_sample_value
    labels = {"model": "tiny", "version": "1"}
    inputs = features(10, 2, 3)
    want = outputs(hold([b""] * 20, inputs.reshape(20, 3)))
    before = counted("carousel_turn_batch_size_count", labels) or 0.0
    with held_up(own):
        calls = [
            hold.wire.inference.StepStates.future(hold.request([b""] * 2, one)) for one in inputs
        ]
        until(lambda: len(own.server.hall.engine._calls) == 10)
    got = np.concatenate([outputs(call.result(PATIENCE)) for call in calls])
    assert counted("carousel_turn_batch_size_count", labels) == before + 1
    assert np.array_equal(got, want)


def test_nothing_is_kept(own: RunningServer, connect: Callable[[RunningServer], Holder]) -> None:
    hold, arena = connect(own), version_of(own, "tiny").arena
    used, live = arena.used, len(own.server.hall.engine.table)
    hold([b""] * 30, features(600, 3), [20] * 30)
    assert (arena.used, len(own.server.hall.engine.table)) == (used, live)
    assert own.server.hall.engine.waiting == 0


def test_many_states_are_opened_and_sealed_aside_with_the_same_result(hold: Holder) -> None:
    inputs = features(1300, 3)
    response = hold([b""] * 1300, inputs)
    predicted = hold.wire.inference.Predict(
        pb.PredictRequest(model="models/tiny", lengths=[1] * 1300, inputs=tensors.encode(inputs))
    )
    want = tensors.decode(predicted.outputs)
    np.testing.assert_allclose(outputs(response), want, rtol=1e-5, atol=1e-6)


def test_the_queue_is_bounded_and_a_refusal_says_when_to_try_again(
    serve: Callable[..., RunningServer], connect: Callable[[RunningServer], Holder]
) -> None:
    hold = connect(serve(shipped=False, max_tenant_queue=4))
    outputs(hold([b""] * 4, features(4, 3)))
    with pytest.raises(grpc.RpcError) as failure:
        hold([b""] * 5, features(5, 3))
    error = error_of(failure.value)
    assert error.reason == "QUEUE_FULL"
    assert (error.retry_after or 0) > 0


def test_what_nobody_waits_for_any_more_is_not_computed(
    own: RunningServer, connect: Callable[[RunningServer], Holder]
) -> None:
    hold, version = connect(own), version_of(own, "tiny")
    outputs(hold([b""], features(1, 3)))
    before = steps_of(version)
    with held_up(own):
        request = hold.request([b""] * 2, features(41, 3), [1, 40])
        waiting = own.server.hall.engine._calls

        def soon_late() -> Any:
            late = hold.wire.inference.StepStates.future(request, timeout=0.3)
            until(lambda: len(waiting) == 1 or late.done())
            # A deadline may pass on the way to a busy server.
            return late if waiting else soon_late()

        late = soon_late()
        gone = hold.wire.inference.StepStates.future(request)
        until(lambda: len(waiting) == 2)
        gone.cancel()
        with pytest.raises(grpc.RpcError) as failure:
            late.result(PATIENCE)
        assert isinstance(failure.value, grpc.Call)
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    hold.wire.outputs([hold.wire.create().handle], [0], features(1, 3))  # a turn later
    assert len(version.held) == 0
    assert steps_of(version) == before + 1


def test_a_version_that_goes_answers_those_who_wait(
    serve: Callable[..., RunningServer], connect: Callable[[RunningServer], Holder]
) -> None:
    own = serve(shipped=False)
    hold = connect(own)
    models = model_service_pb2_grpc.ModelServiceStub(grpc.insecure_channel(own.target))
    name = "models/tiny/versions/1"
    with held_up(own):
        request = hold.request([b""] * 2, features(41, 3), [1, 40])
        waiting = hold.wire.inference.StepStates.future(request)
        until(lambda: len(own.server.hall.engine._calls) == 1)
        going = models.UnloadModelVersion.future(
            model_service_pb2.UnloadModelVersionRequest(name=name)
        )
        until(lambda: len(own.server.hall.engine._calls) == 2)
    going.result(PATIENCE)
    errors = waiting.result(PATIENCE).errors
    assert [(error.item, error.reason) for error in errors] == [
        (0, "MODEL_NOT_LOADED"),
        (1, "MODEL_NOT_LOADED"),
    ]


def test_a_fault_in_a_turn_leaves_nobody_without_an_answer(
    own: RunningServer, connect: Callable[[RunningServer], Holder], monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, version = connect(own), version_of(own, "tiny")

    def fails(*args: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(version.kernel, "chunk", fails)
        assert hold.reasons([b""] * 2, features(21, 3), [1, 20]) == {1: "INTERNAL"}
    assert hold.reasons([b""] * 2, features(21, 3), [1, 20]) == {}


def test_a_server_that_drains_takes_none(
    serve: Callable[..., RunningServer], connect: Callable[[RunningServer], Holder]
) -> None:
    own = serve(shipped=False)
    hold = connect(own)
    own.server.hall.draining = True
    with pytest.raises(grpc.RpcError) as failure:
        hold([b""], features(1, 3))
    assert error_of(failure.value).reason == "SERVER_DRAINING"


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"model": "models/nothing"}, "MODEL_NOT_FOUND", ""),
        ({"model": "models/both-ways"}, "MODEL_NOT_STEPWISE", ""),
        ({"states": []}, "INVALID_FIELD", "states"),
        ({"states": [b""] * 65_537}, "INVALID_FIELD", "states"),
        ({"lengths": [1, 1]}, "INVALID_FIELD", "lengths"),
        (
            {"inputs": tensors.encode(np.zeros((2, 3), np.float32))},
            "INPUT_MISMATCH",
            "inputs.shape",
        ),
    ],
)
def test_a_message_that_can_not_be_read_is_refused_whole(
    hold: Holder, changes: dict[str, object], reason: str, field: str
) -> None:
    good = {
        "model": "models/tiny",
        "states": [b""],
        "inputs": tensors.encode(np.zeros((1, 3), np.float32)),
    }
    with pytest.raises(grpc.RpcError) as failure:
        hold.wire.inference.StepStates(pb.StepStatesRequest(**{**good, **changes}))  # type: ignore[arg-type]
    error = error_of(failure.value)
    assert (error.reason, error.field) == (reason, field)


def test_what_could_not_be_answered_in_one_message_is_refused_before_it_runs(
    serve: Callable[..., RunningServer], connect: Callable[[RunningServer], Holder]
) -> None:
    server = serve(shipped=False, max_message_bytes=4 * 1024**2)
    hold, version = connect(server), version_of(server, "letters")
    with pytest.raises(grpc.RpcError) as failure:
        hold([b""] * 10, np.zeros(100_000, np.int32), [10_000] * 10, model="models/letters")
    assert error_of(failure.value).reason == "MESSAGE_TOO_LARGE"
    assert steps_of(version) == 0


def test_chunks_and_single_steps_take_turns_and_nobody_is_forgotten() -> None:
    async def main() -> None:
        queue = HeldQueue(chunk_slice=4)
        lengths = np.array([1] * 20 + [9] * 5)
        work = HeldWork(
            np.zeros((25, 1), np.float32),
            np.zeros((int(lengths.sum()), 1), np.float32),
            lengths,
            output_size=1,
            last_only=False,
            deadline=np.inf,
            arrived=0.0,
        )
        queue.push(work)
        turns = []
        while len(queue):
            groups, sliced = queue.next(in_a_hurry=True, limit=8)
            items = np.concatenate([group.items for group in groups])
            turns.append((sliced, items.tolist()))
        singles = [items for sliced, items in turns if not sliced]
        assert list(chain(*singles)) == list(range(20))
        assert [len(items) for items in singles] == [8, 8, 4]
        assert list(chain(*(items for sliced, items in turns if sliced))) == list(range(20, 25))
        assert [sliced for sliced, _ in turns[:5]] == [False, True, False, True, False]
        assert all(len(items) <= 2 for sliced, items in turns if sliced)  # 8 steps: a turn's work

    asyncio.run(main())
