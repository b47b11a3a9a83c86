"""Parking: more sessions than the device, and the memory beside it, hold."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from carousel import tensors
from carousel.server import engine, lone
from carousel.v1 import inference_service_pb2 as steps
from carousel.v1 import session_pb2
from carousel.v1 import session_service_pb2 as pb
from tests.conftest import RunningServer
from tests.oracle import Oracle
from tests.processes import PATIENCE, until
from tests.server.contract import Floats, Wire, error_of
from tests.server.engines import held_up

ROWS, IN_MEMORY = 8, 4


@pytest.fixture(params=["memory", "async"])
def crowded(
    serve: Callable[..., RunningServer], request: pytest.FixtureRequest
) -> Iterator[tuple[Wire, RunningServer]]:
    """A server whose device holds 8 rows, and whose memory 4 parked sessions."""
    server = serve(
        device_rows=ROWS, host_sessions=IN_MEMORY, shipped=False, default_durability=request.param
    )
    with grpc.insecure_channel(server.target) as channel:
        yield Wire(channel), server


def sequences(count: int, steps: int) -> Floats:
    return np.random.default_rng(3).standard_normal((count, steps, 3)).astype(np.float32)


def alone(wire: Wire, inputs: Floats) -> Floats:
    """What each sequence [S, T, 3] gives in a session that is never parked: [S, T, 2]."""
    outputs = []
    for sequence in inputs:
        session = wire.create()
        outputs.append(wire.outputs([session.handle], [0], sequence, [len(sequence)]))
        wire.sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name))
    return np.stack(outputs)


def tiers(wire: Wire) -> list[int]:
    listed = wire.sessions.ListSessions(pb.ListSessionsRequest(page_size=1000))
    return [session.tier for session in listed.sessions]


def test_callers_who_come_at_once_park_nobody_who_waits(
    crowded: tuple[Wire, RunningServer],
) -> None:
    """More callers than rows, each with steps of one session on its way at all times."""
    wire, _ = crowded
    inputs = sequences(3 * ROWS, 30)
    truth = alone(wire, inputs)
    handles = [wire.create().handle for _ in inputs]
    outputs: list[list[Floats]] = [[] for _ in inputs]
    for step in range(inputs.shape[1]):
        flying = [
            wire.inference.Step.future(
                steps.StepRequest(
                    handles=[handle],
                    step_indexes=[step],
                    inputs=tensors.encode(sequence[step : step + 1]),
                )
            )
            for handle, sequence in zip(handles, inputs, strict=True)
        ]
        for number, call in enumerate(flying):
            answer = call.result(PATIENCE)
            assert not answer.errors, answer.errors
            outputs[number].append(tensors.decode(answer.outputs)[0])
    np.testing.assert_allclose(np.array(outputs), truth, rtol=1e-4, atol=1e-5)


def test_who_is_alone_beside_parked_sessions_is_stepped_where_it_came(
    crowded: tuple[Wire, RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    wire, _ = crowded
    monkeypatch.setattr(engine, "SHORT_SECONDS", math.inf)
    planned, plan_of = list[Any](), lone.plan_of

    def seen(*args: Any) -> Any:
        planned.append(plan_of(*args))
        return planned[-1]

    monkeypatch.setattr(lone, "plan_of", seen)
    inputs = sequences(2 * ROWS, 3)
    truth = alone(wire, inputs)
    handles = [wire.create().handle for _ in inputs]
    planned.clear()
    for number, handle in enumerate(handles):
        for step in range(3):
            got = wire.outputs([handle], [step], inputs[number, step : step + 1])
            np.testing.assert_allclose(got[0], truth[number, step], rtol=1e-4, atol=1e-5)
    assert len(set(tiers(wire))) > 1, "none is parked"
    assert any(plan is not None for plan in planned), "it was never alone"
    assert any(plan is None for plan in planned), "none was brought back"


def test_whoever_comes_later_does_not_overtake_a_message_that_waits_for_room(
    serve: Callable[..., RunningServer],
) -> None:
    """Two rows, one of them busy: a message of two parked sessions waits, and so does the next."""
    server = serve(device_rows=2, shipped=False, default_durability="memory")
    inputs = sequences(3, 2)
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        truth = alone(wire, inputs)
        parked, other, _, busy = (wire.create().handle for _ in range(4))

        def message(handles: list[int], step: int, x: Floats) -> steps.StreamStepsRequest:
            request = steps.StepRequest(
                handles=handles, step_indexes=[step] * len(handles), inputs=tensors.encode(x)
            )
            return steps.StreamStepsRequest(step=request)

        messages = (
            message([busy], 0, inputs[2:, 0]),
            message([parked, other], 0, inputs[:2, 0]),
            message([parked], 1, inputs[:1, 1]),
        )
        with held_up(server):
            answers = wire.inference.StreamSteps(iter(messages), timeout=PATIENCE)
            until(lambda: len(server.server.hall.engine._inbox) == len(messages))
        said: dict[int, list[Floats]] = {}
        for answer in answers:
            assert not answer.step.errors, answer.step.errors
            rows = tensors.decode(answer.step.outputs)
            for handle, row in zip(answer.step.handles, rows, strict=True):
                said.setdefault(handle, []).append(row)
    np.testing.assert_allclose(said[parked], truth[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(said[other], truth[1, :1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(said[busy], truth[2, :1], rtol=1e-4, atol=1e-5)


def test_sessions_beyond_the_device_lose_nothing(crowded: tuple[Wire, RunningServer]) -> None:
    wire, _ = crowded
    inputs = sequences(20, 12)
    truth = alone(wire, inputs)
    sessions = [wire.create(rewind_depth=0) for _ in inputs]
    done = [0] * len(sessions)
    dice = random.Random(5)
    seen = set()
    while min(done) < 12:
        chosen = [n for n in dice.sample(range(20), dice.randint(1, 6)) if done[n] < 12]
        if not chosen:
            continue
        lengths = [dice.randint(1, min(3, 12 - done[n])) for n in chosen]
        x = np.concatenate(
            [inputs[n, done[n] : done[n] + k] for n, k in zip(chosen, lengths, strict=True)]
        )
        y = wire.outputs(
            [sessions[n].handle for n in chosen], [done[n] for n in chosen], x, lengths
        )
        for n, k in zip(chosen, lengths, strict=True):
            np.testing.assert_allclose(y[:k], truth[n, done[n] : done[n] + k], rtol=1e-4, atol=1e-6)
            y, done[n] = y[k:], done[n] + k
        seen |= set(tiers(wire))
    assert session_pb2.SESSION_TIER_HOST in seen

    def some_are_in_the_store() -> bool:
        crowd(wire)
        return session_pb2.SESSION_TIER_STORE in tiers(wire)

    until(some_are_in_the_store)


def test_replies_kept_states_and_bookmarks_are_parked_too(
    crowded: tuple[Wire, RunningServer],
) -> None:
    wire, _ = crowded
    inputs = sequences(1, 6)[0]
    session = wire.create(rewind_depth=2)
    wire.outputs([session.handle], [0], inputs[:2], [2])
    wire.sessions.BookmarkSession(pb.BookmarkSessionRequest(name=session.name, bookmark="two"))
    outputs = wire.outputs([session.handle], [2], inputs[2:6], [4])
    crowd(wire)
    # The reply in memory came back with it.
    np.testing.assert_array_equal(wire.outputs([session.handle], [2], inputs[2:6], [4]), outputs)
    crowd(wire)
    back = wire.sessions.RewindSession(pb.RewindSessionRequest(name=session.name, steps=2))
    assert back.step_index == 4
    np.testing.assert_allclose(
        wire.outputs([back.handle], [4], inputs[4:5]), outputs[2:3], rtol=1e-5, atol=1e-6
    )
    crowd(wire)
    back = wire.sessions.RewindSession(pb.RewindSessionRequest(name=session.name, bookmark="two"))
    assert back.step_index == 2
    np.testing.assert_allclose(
        wire.outputs([back.handle], [2], inputs[2:3]), outputs[:1], rtol=1e-5, atol=1e-6
    )


def crowd(wire: Wire) -> None:
    """Use as many other sessions as drive everybody else off the device and out of memory."""
    for _ in range(ROWS + IN_MEMORY):
        other = wire.create()
        wire.outputs([other.handle], [0], sequences(1, 1)[0])


def test_whatever_is_done_to_a_parked_session_finds_it(
    crowded: tuple[Wire, RunningServer],
) -> None:
    wire, _ = crowded
    inputs = sequences(1, 2)[0]
    truth = alone(wire, inputs[None])[0]

    def parked() -> session_pb2.Session:
        session = wire.create()
        wire.outputs([session.handle], [0], inputs[:1])
        crowd(wire)
        now = wire.sessions.GetSession(pb.GetSessionRequest(name=session.name))
        assert now.tier != session_pb2.SESSION_TIER_DEVICE
        return session

    def goes_on(handle: int) -> None:
        np.testing.assert_allclose(
            wire.outputs([handle], [1], inputs[1:]), truth[1:], rtol=1e-5, atol=1e-6
        )

    session = parked()
    fork = wire.sessions.ForkSession(pb.ForkSessionRequest(name=session.name))
    goes_on(fork.sessions[0].handle)
    session = parked()
    goes_on(wire.sessions.AttachSession(pb.AttachSessionRequest(name=session.name)).handle)
    session = parked()
    snapshot = wire.sessions.ExportSession(pb.ExportSessionRequest(name=session.name)).snapshot
    goes_on(wire.sessions.ImportSession(pb.ImportSessionRequest(snapshot=snapshot)).handle)
    session = parked()
    wire.sessions.TouchSession(pb.TouchSessionRequest(name=session.name))
    goes_on(session.handle)
    session = parked()
    wire.sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name))
    with pytest.raises(grpc.RpcError) as failure:
        wire.sessions.TouchSession(pb.TouchSessionRequest(name=session.name))
    assert error_of(failure.value).reason == "SESSION_ENDED"


def test_a_message_for_more_sessions_than_the_device_holds_is_served_in_several_turns(
    crowded: tuple[Wire, RunningServer], model_store: Path
) -> None:
    """Twice in a row, single steps and chunks, with kept states that take rows of their own."""
    wire, _ = crowded
    oracle = Oracle(model_store / "tiny" / "1")
    inputs = sequences(50, 5)
    truth = np.stack([oracle.run(sequence, oracle.initial)[0] for sequence in inputs])
    sessions = [wire.create(rewind_depth=number % 3) for number in range(len(inputs))]
    handles = [session.handle for session in sessions]
    assert tiers(wire).count(session_pb2.SESSION_TIER_DEVICE) < len(sessions) / 2
    for step in range(2):
        outputs = wire.outputs(handles, [step] * len(handles), inputs[:, step])
        np.testing.assert_allclose(outputs, truth[:, step], rtol=1e-4, atol=1e-5)
    lengths = [3 if number % 2 else 1 for number in range(len(inputs))]
    x = np.concatenate([one[2 : 2 + k] for one, k in zip(inputs, lengths, strict=True)])
    expected = [one[2 : 2 + k] for one, k in zip(truth, lengths, strict=True)]
    outputs = wire.outputs(handles, [2] * len(handles), x, lengths)
    np.testing.assert_allclose(outputs, np.concatenate(expected), rtol=1e-4, atol=1e-5)


def test_messages_that_want_the_same_sessions_in_other_orders_wait_for_each_other(
    crowded: tuple[Wire, RunningServer], model_store: Path
) -> None:
    """Both are for more sessions than there are rows: neither keeps rows that the other needs."""
    wire, _ = crowded
    oracle = Oracle(model_store / "tiny" / "1")
    inputs = sequences(3 * ROWS, 2)
    truth = np.stack([oracle.run(sequence, oracle.initial)[0] for sequence in inputs])
    handles = [wire.create().handle for _ in inputs]
    orders = np.arange(len(inputs)), np.arange(len(inputs))[::-1]

    def message(step: int) -> steps.StreamStepsRequest:
        order = orders[step].tolist()
        return steps.StreamStepsRequest(
            step=steps.StepRequest(
                handles=[handles[number] for number in order],
                step_indexes=[step] * len(order),
                inputs=tensors.encode(inputs[order, step]),
            )
        )

    said: dict[int, list[Floats]] = {}
    for answer in wire.inference.StreamSteps(iter([message(0), message(1)]), timeout=PATIENCE):
        assert not answer.step.errors, answer.step.errors
        rows = tensors.decode(answer.step.outputs)
        for handle, row in zip(answer.step.handles, rows, strict=True):
            said.setdefault(handle, []).append(row)
    got = np.stack([said[handle] for handle in handles])
    np.testing.assert_allclose(got, truth, rtol=1e-4, atol=1e-5)


def test_nothing_is_moved_for_a_message_whose_caller_is_gone(
    crowded: tuple[Wire, RunningServer],
) -> None:
    wire, server = crowded
    handles = [wire.create().handle for _ in range(5 * ROWS)]
    x = sequences(len(handles), 1)[:, 0]
    request = steps.StepRequest(
        handles=handles, step_indexes=[0] * len(handles), inputs=tensors.encode(x)
    )
    engine, registry = server.server.hall.engine, server.server.hall.metrics.registry

    def moved() -> float:
        labels = {"model": "tiny"}
        return registry.get_sample_value("carousel_session_unparks_total", labels) or 0.0

    before = moved()
    with held_up(server):
        call = wire.inference.Step.future(request, timeout=PATIENCE)
        until(lambda: engine._inbox)
        assert call.cancel()
        [(_, work)] = engine._inbox
        until(lambda: work.cancelled)
    until(lambda: not engine.waiting)
    listed = wire.sessions.ListSessions(pb.ListSessionsRequest(page_size=1000))
    assert {session.step_index for session in listed.sessions} == {0}
    assert moved() == before
    # The next call is answered as ever.
    assert len(wire.outputs(handles, [0] * len(handles), x)) == len(handles)
