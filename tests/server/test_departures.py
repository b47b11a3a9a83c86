"""Sessions, callers and models that go while something still waits for them."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from carousel import tensors
from carousel.errors import SessionNotFound
from carousel.server import app, engine, gatekeeper, replies
from carousel.server.item_errors import refuse
from carousel.server.outbox import hand_out
from carousel.server.services.step_answers import STREAM_ANSWERS, Stream
from carousel.server.work import Answer, Work
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import (
    model_service_pb2,
    model_service_pb2_grpc,
    session_pb2,
)
from carousel.v1 import session_service_pb2 as make
from tests.conftest import RunningServer
from tests.processes import PATIENCE, until
from tests.server.contract import Wire, error_of
from tests.server.engines import held_up, in_engine, version_of


@pytest.fixture
def own(serve: Callable[..., RunningServer]) -> RunningServer:
    return serve(shipped=False)


@pytest.fixture
def wire(own: RunningServer) -> Iterator[Wire]:
    with grpc.insecure_channel(own.target) as channel:
        yield Wire(channel)


def count(server: RunningServer, what: str, **labels: str) -> float:
    service = {"grpc_type": "unary", "grpc_service": "carousel.v1.SessionService"}
    name = f"grpc_server_{what}_total"
    return server.server.metrics.registry.get_sample_value(name, service | labels) or 0.0


class Queued:
    """A work whose items wait in the engine's queue, and their answers."""

    def __init__(self, handles: list[int], indexes: list[int]) -> None:
        self.answers: list[Answer] = []
        inputs = np.zeros((len(handles), 3), np.float32)
        self.work = Work(handles, indexes, inputs, self.answers.append)

    @property
    def reasons(self) -> list[str]:
        return [error.reason for answer in self.answers for _, error in answer.errors]


@pytest.mark.parametrize("how", ["delete", "attach", "unload"])
def test_what_waits_for_a_handle_that_goes_is_answered_at_once(
    own: RunningServer, wire: Wire, how: str
) -> None:
    session = wire.create()
    hall = own.server.hall
    version = version_of(own, "tiny")
    queued = Queued([session.handle] * 500, list(range(500)))

    def queue_and_go() -> None:
        assert gatekeeper.admit(hall.engine.table, version, queued.work) == []
        assert len(version.scheduler) == 500
        if how == "delete":
            hall.sessions.delete(session.name.removeprefix("sessions/"))
        elif how == "attach":
            hall.sessions.attach(session.name.removeprefix("sessions/"))
        else:
            version.retired = True
            hall.sessions.end_all(version, session_pb2.END_REASON_DRAINED)
            hall.engine.retire(version)

    in_engine(own, queue_and_go)
    until(lambda: len(queued.reasons) == 500)
    assert set(queued.reasons) == {"SESSION_FENCED" if how == "attach" else "SESSION_ENDED"}
    assert len(version.scheduler) == 0
    if how == "attach":  # and who comes now waits behind nobody
        again = wire.sessions.AttachSession(make.AttachSessionRequest(name=session.name))
        wire.outputs([again.handle], [0], np.zeros((1, 3), np.float32))


def test_a_session_that_takes_a_dead_one_s_place_steps_at_once(
    own: RunningServer, wire: Wire
) -> None:
    sessions_made = [wire.create() for _ in range(20)]
    hall, version = own.server.hall, version_of(own, "tiny")
    queued = Queued([s.handle for s in sessions_made for _ in range(50)], list(range(50)) * 20)

    def queue_and_end() -> None:
        assert gatekeeper.admit(hall.engine.table, version, queued.work) == []
        hall.sessions.end_all(version, session_pb2.END_REASON_CLOSED)

    in_engine(own, queue_and_end)
    until(lambda: len(queued.reasons) == 1000)
    handles = [wire.create().handle for _ in range(20)]
    wire.outputs(handles, [0] * 20, np.zeros((20, 3), np.float32))


def test_one_message_can_not_fill_a_session_s_line_beyond_its_limit(wire: Wire) -> None:
    session, other = wire.create(), wire.create()
    handles = [session.handle] * 1100 + [other.handle]
    indexes = [*range(1100), 0]
    response = wire.step(handles, indexes, np.zeros((1101, 3), np.float32))
    assert {error.reason for error in response.errors} == {"QUEUE_FULL"}
    assert [error.item for error in response.errors] == list(range(1024, 1100))
    assert wire.sessions.GetSession(make.GetSessionRequest(name=session.name)).step_index == 1024


@pytest.mark.parametrize("kind", ["create", "fork", "import"])
def test_sessions_made_for_a_caller_who_has_gone_do_not_stay(
    own: RunningServer, wire: Wire, kind: str
) -> None:
    source = wire.create()
    exported = wire.sessions.ExportSession(make.ExportSessionRequest(name=source.name))
    stub: Any = wire.sessions
    call, request = {
        "create": (stub.CreateSession, make.CreateSessionRequest(model="models/tiny")),
        "fork": (stub.ForkSession, make.ForkSessionRequest(name=source.name, count=3)),
        "import": (stub.ImportSession, make.ImportSessionRequest(snapshot=exported.snapshot)),
    }[kind]
    method = {"grpc_method": f"{kind.capitalize()}Session"}
    made = version_of(own, "tiny").metrics.created
    before, started = made._value.get(), count(own, "started", **method)
    with held_up(own):
        flying = call.future(request)
        until(lambda: count(own, "started", **method) > started)
        until(lambda: len(own.server.hall.engine._calls) > 0)  # it waits for the engine
        flying.cancel()
        until(lambda: count(own, "handled", grpc_code="CANCELLED", **method) == 1)
        assert made._value.get() == before
    until(lambda: made._value.get() > before)
    until(lambda: len(own.server.hall.engine.table) == 1)


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_a_step_whose_caller_has_gone_before_its_turn_is_not_committed(
    own: RunningServer, wire: Wire, how: str
) -> None:
    session, other = wire.create(), wire.create()
    hall, step = own.server.hall, wire.inference.Step
    request = pb.StepRequest(
        handles=[session.handle],
        step_indexes=[0],
        inputs=tensors.encode(np.ones((1, 3), np.float32)),
    )

    def waiting() -> list[Work]:
        return [work for _, work in hall.engine._inbox]

    with held_up(own):
        late: Any = step.future(request, timeout=PATIENCE)
        until(lambda: len(waiting()) == 1)
        [work] = waiting()
        if how == "cancel":
            late.cancel()
            until(lambda: work.cancelled)
        else:
            work.deadline = time.monotonic()
    wire.outputs([other.handle], [0], np.ones((1, 3), np.float32))
    assert wire.sessions.GetSession(make.GetSessionRequest(name=session.name)).step_index == 0
    wire.outputs([session.handle], [0], np.ones((1, 3), np.float32))


def test_a_durable_session_is_made_and_stored_in_one_visit_to_the_engine(
    own: RunningServer, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = own.server.hall.engine
    post, visits = engine.post, list[Callable[[], None]]()

    def counted(visit: Callable[[], None]) -> None:
        visits.append(visit)
        post(visit)

    monkeypatch.setattr(engine, "post", counted)
    session = wire.create(durability=session_pb2.DURABILITY_SYNC)
    key = session.name.removeprefix("sessions/")
    assert len(visits) == 1
    assert engine.table.stored_as(key) == (session.handle, session.handle)


def test_a_running_server_looks_for_garbage_when_much_is_young(
    serve: Callable[..., RunningServer],
) -> None:
    before = gc.get_threshold()
    gc.set_threshold(700)
    try:
        serve()
        assert gc.get_threshold()[0] == app.YOUNG_OBJECTS
    finally:
        gc.set_threshold(*before)


def test_a_version_is_loaded_to_the_end_when_its_caller_has_gone(
    own: RunningServer, wire: Wire
) -> None:
    with grpc.insecure_channel(own.target) as channel:
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        health: Any = health_pb2_grpc.HealthStub(channel)
        name = "models/tiny/versions/1"
        check = health_pb2.HealthCheckRequest(service="models/tiny")
        models.UnloadModelVersion(model_service_pb2.UnloadModelVersionRequest(name=name))
        until(lambda: health.Check(check).status == health_pb2.HealthCheckResponse.NOT_SERVING)
        method = {"grpc_service": "carousel.v1.ModelService", "grpc_method": "LoadModelVersion"}
        with held_up(own):
            loading = models.LoadModelVersion.future(
                model_service_pb2.LoadModelVersionRequest(name=name)
            )
            until(lambda: len(own.server.hall.engine._calls) == 1)
            loading.cancel()
            until(lambda: count(own, "handled", grpc_code="CANCELLED", **method) == 1)
        until(lambda: health.Check(check).status == health_pb2.HealthCheckResponse.SERVING)
        wire.outputs([wire.create().handle], [0], np.zeros((1, 3), np.float32))


def test_the_outputs_of_a_chunk_are_kept_once_for_all_forks(own: RunningServer, wire: Wire) -> None:
    session = wire.create()
    answer = wire.outputs([session.handle], [0], np.ones((300, 3), np.float32), [300])
    forks = wire.sessions.ForkSession(make.ForkSessionRequest(name=session.name, count=5)).sessions
    table = own.server.hall.engine.table
    slots = [table.slots[s.name.removeprefix("sessions/")] for s in (session, *forks)]
    kept = [table.chunk_replies.get(slot) for slot in slots]
    assert all(np.shares_memory(kept[0], reply) for reply in kept)
    again = wire.outputs([forks[4].handle], [0], np.ones((300, 3), np.float32), [300])
    assert np.array_equal(again, answer)
    in_engine(own, lambda: own.server.hall.sessions.discard([s.handle for s in forks]))
    assert table.chunk_replies.bytes == answer.nbytes


def test_too_many_kept_outputs_shrink_to_the_last_one_oldest_first(
    own: RunningServer, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = wire.create(), wire.create()
    chunk = np.ones((100, 3), np.float32)
    answers = [wire.outputs([s.handle], [0], chunk, [100]) for s in (old, new)]
    monkeypatch.setattr(replies, "MOST_BYTES", answers[0].nbytes)
    in_engine(own, lambda: own.server.hall.sessions.sweep(time.time()))
    assert np.array_equal(wire.outputs([new.handle], [0], chunk, [100]), answers[1])
    [error] = wire.step([old.handle], [0], chunk, [100]).errors
    assert error.reason == "STEP_CONFLICT"
    last = wire.outputs([old.handle], [99], chunk[:1])
    assert np.array_equal(last, answers[0][-1:])


def test_kept_outputs_shrink_with_the_turn_that_made_them_too_many(
    own: RunningServer, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = np.ones((100, 3), np.float32)
    first = wire.outputs([wire.create().handle], [0], chunk, [100])
    monkeypatch.setattr(engine, "SWEEP_SECONDS", 3600.0)
    monkeypatch.setattr(replies, "MOST_BYTES", 2 * first.nbytes)
    kept = own.server.hall.engine.table.chunk_replies
    for _ in range(5):
        wire.outputs([wire.create().handle], [0], chunk, [100])
        assert first.nbytes <= in_engine(own, lambda: kept.bytes) <= replies.MOST_BYTES


def test_an_answer_that_can_not_be_handed_out_takes_no_other_along() -> None:
    def fails(answer: Answer) -> None:
        raise RuntimeError("a bug")

    inputs = np.zeros((1, 1), np.float32)
    got: list[Answer] = []
    answers = [
        Answer(Work([1], [0], inputs, deliver), np.zeros(1, np.int64), None, inputs)
        for deliver in (fails, got.append)
    ]
    hand_out(answers)
    assert got == [answers[1]]


def test_a_request_that_can_not_be_parsed_is_a_bad_argument(own: RunningServer) -> None:
    with grpc.insecure_channel(own.target) as channel:
        for method, call in (
            ("SessionService/GetSession", channel.unary_unary),
            ("InferenceService/Generate", channel.unary_stream),
            ("InferenceService/StreamSteps", channel.stream_stream),
            ("ModelService/UploadModelVersion", channel.stream_unary),
        ):
            rpc: Any = call(f"/carousel.v1.{method}")
            streams = call in (channel.stream_stream, channel.stream_unary)
            with pytest.raises(grpc.RpcError) as raised:
                list(rpc(iter([b"\xff\xff"]) if streams else b"\xff\xff", timeout=PATIENCE))
            assert error_of(raised.value).reason == "INVALID_FIELD", method


@pytest.mark.parametrize("count", [0, 65_537])
def test_a_stream_s_message_of_no_or_too_many_items_ends_the_stream_and_says_why(
    wire: Wire, count: int
) -> None:
    request = pb.StreamStepsRequest(step=pb.StepRequest(handles=[1] * count))
    with pytest.raises(grpc.RpcError) as raised:
        list(wire.inference.StreamSteps(iter([request]), timeout=PATIENCE))
    assert error_of(raised.value).field == "handles"


def test_of_many_handles_that_nobody_knows_each_is_answered_by_its_place(wire: Wire) -> None:
    session = wire.create()
    fenced = session.handle
    wire.sessions.AttachSession(make.AttachSessionRequest(name=session.name))
    strays = [10**6 + number for number in range(40)]
    request = pb.StepRequest(handles=[*strays, fenced], step_indexes=[0] * 41)
    request.inputs.CopyFrom(tensors.encode(np.zeros((41, 3), np.float32)))
    answer = wire.inference.Step(request)
    assert [error.item for error in answer.errors] == list(range(41))
    reasons = [error.reason for error in answer.errors]
    assert reasons == ["SESSION_NOT_FOUND"] * 40 + ["SESSION_FENCED"]
    assert len({error.message for error in answer.errors}) == 2


def test_a_session_that_has_just_ended_is_not_attached_again(
    own: RunningServer, wire: Wire
) -> None:
    version = "models/tiny/versions/1"
    for _ in range(5):
        session = wire.create()
        wire.outputs([session.handle], [0], np.ones((20, 3), np.float32), [20])
        unload = model_service_pb2.UnloadModelVersionRequest(name=version, force=True)
        wire.models.UnloadModelVersion(unload)
        wire.models.LoadModelVersion(model_service_pb2.LoadModelVersionRequest(name=version))
        with pytest.raises(grpc.RpcError) as raised:
            wire.sessions.AttachSession(make.AttachSessionRequest(name=session.name))
        assert error_of(raised.value).reason == "SESSION_ENDED"


def test_a_stream_whose_errors_wait_is_read_no_further() -> None:
    async def main() -> list[bool]:
        stream = Stream("", "", None)
        refused = refuse(pb.StepRequest(handles=[1] * 1000), SessionNotFound("no session"))
        calm = []
        for _ in range(STREAM_ANSWERS):
            calm.append(stream.calm.is_set())
            stream.put(refused)
        calm.append(stream.calm.is_set())
        stream.sent(await stream.next() or b"")
        return [*calm, stream.calm.is_set()]

    calm = asyncio.run(main())
    assert calm == [True] * STREAM_ANSWERS + [False, True]


ONE_STEP = tensors.encode(np.zeros((1, 3), np.float32))


def test_being_asked_twice_to_stop_cuts_off_what_still_runs(own: RunningServer, wire: Wire) -> None:
    session = wire.create()
    with held_up(own):
        request = pb.StepRequest(handles=[session.handle], step_indexes=[0])
        request.inputs.CopyFrom(ONE_STEP)
        flying = wire.inference.Step.future(request)
        until(lambda: own.server.hall.engine.waiting == 1)
        own.loop.call_soon_threadsafe(own.server.interrupt)
        until(lambda: own.server.hall.draining)
        own.loop.call_soon_threadsafe(own.server.interrupt)
        with pytest.raises(grpc.RpcError):
            flying.result(PATIENCE)
    own.join()
