"""Hot calls: how calls of steps are taken up from gRPC's core, and by whom where that can't be."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from carousel import tensors
from carousel.server import hot_calls
from carousel.server.rpc import TAKEN_UP
from carousel.server.services.session_service import SessionService
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import session_service_pb2 as pb2
from tests.conftest import RunningServer
from tests.processes import PATIENCE, until
from tests.server.contract import Wire

CALLERS = 200  # more than are taken up in an iteration


def _first_outputs(server: RunningServer) -> set[bytes]:
    """What sessions of one state answer to the same step, each in a call of its own at once."""
    inputs = tensors.encode(np.ones((1, 3), np.float32))
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        handles = [wire.create().handle for _ in range(CALLERS)]
        requests = [pb.StepRequest(handles=[h], step_indexes=[0], inputs=inputs) for h in handles]
        calls = [wire.inference.Step.future(request, timeout=PATIENCE) for request in requests]
        answers = [call.result() for call in calls]
    assert [list(answer.handles) for answer in answers] == [[handle] for handle in handles]
    rows = np.stack([tensors.decode(answer.outputs)[0] for answer in answers])
    assert np.ptp(rows, axis=0).max() < 1e-6
    return set(map(bytes, rows.round(4)))


def test_the_installed_grpc_has_the_parts() -> None:
    assert hot_calls.inner_parts() is not None


def test_grpc_serves_steps_alone_where_it_lacks_a_part(
    serve: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_parts = _first_outputs(serve(shipped=False))
    monkeypatch.setattr(hot_calls, "PARTS", (*hot_calls.PARTS, "_of_another_version"))
    server = serve(shipped=False)
    assert not server.server.calls.hot.live
    assert _first_outputs(server) == with_parts


def test_a_server_that_has_stopped_takes_nothing_up(serve: Callable[..., RunningServer]) -> None:
    server = serve(shipped=False)
    taking = set(server.server.calls.hot.live)
    assert len(taking) == (len(TAKEN_UP) - 1) * hot_calls.WAITING + hot_calls.STREAMS
    server.stop()
    assert all(task.done() for task in taking)


def test_what_a_call_was_about_is_gone_with_it(serve: Callable[..., RunningServer]) -> None:
    """Calls are taken up by the same few tasks, and none knows whose the former was."""
    server = serve(shipped=False)
    inputs = tensors.encode(np.ones((1, 3), np.float32))
    own, others = (("x-carousel-tenant", "one"),), (("x-carousel-tenant", "two"),)
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        handle = wire.create_for("one").handle
        for index in range(2 * hot_calls.WAITING):
            request = pb.StepRequest(handles=[handle], step_indexes=[index], inputs=inputs)
            assert not wire.inference.Step(request, metadata=own).errors
            assert wire.inference.Step(request, metadata=others).errors


def test_what_is_made_does_not_stay_when_its_answer_comes_too_late(
    serve: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline comes after the session was made, and before the answer is sent."""
    make, made = SessionService.CreateSession, []

    async def dawdle(self: SessionService, request: Any, context: Any) -> Any:
        response = await make(self, request, context)
        left = context.time_remaining()
        if left is not None:  # of the call that is looked at
            made.append(response)
            time.sleep(left + 0.1)  # noqa: ASYNC251  as a loop does that has much to do
        return response

    monkeypatch.setattr(SessionService, "CreateSession", dawdle)
    server = serve(shipped=False)
    table = server.server.hall.engine.table
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        request = pb2.CreateSessionRequest(model="models/tiny")
        wire.sessions.CreateSession(request)  # grpc.aio has the first, and then one of 65
        before = len(table)
        while not made:
            with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
                wire.sessions.CreateSession(request, timeout=0.5)
        until(lambda: len(table) == before)
