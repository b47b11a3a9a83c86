"""Every counter against the truth: a script tells what must have moved, and nothing else did."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration

from carousel import tensors
from carousel.server.work import Answer, Work
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import model_service_pb2, session_pb2
from carousel.v1 import session_service_pb2 as make
from tests.conftest import RunningServer, settings_of
from tests.processes import PATIENCE, until
from tests.server.contract import Floats, Wire
from tests.server.engines import held_up, version_of
from tests.server.ledger import Ledger, counts, key, ledger
from tests.server.test_durable_sessions import Clock

LONG = 2**17


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def own(
    model_store: Any, tmp_path_factory: pytest.TempPathFactory, clock: Clock
) -> Iterator[RunningServer]:
    """A server in which 16 items may wait, 8 of them of one tenant."""
    settings = settings_of(
        tmp_path_factory.mktemp("data"),
        store=model_store,
        shipped=False,
        max_queue=16,
        max_chunk=LONG,
        default_durability="memory",
        batch_audit_every=0,
        gate_sample_seconds=0,
    )
    server = RunningServer(settings, clock=clock)
    yield server
    server.stop()


def features(count: int, size: int = 3) -> Floats:
    return np.random.default_rng(count).standard_normal((count, size)).astype(np.float32)


def create(book: Ledger, count: int = 1, model: str = "tiny", **fields: Any) -> list[Any]:
    book.model("sessions_created_total", count, model=model)
    return [book.wire.create(f"models/{model}", **fields) for _ in range(count)]


def test_steps_and_repeated_steps(own: RunningServer) -> None:
    with ledger(own) as book:
        a, b, c = (one.handle for one in create(book, 3))
        book.wire.outputs([a, b, c], [0, 0, 0], features(3))
        book.steps(3)
        book.wire.outputs([a], [1], features(20), [20])
        book.steps(20, alone=0)
        book.wire.outputs([b], [0], features(1))  # again
        book.model("step_duplicates_total")
        book.wire.outputs([a], [1], features(20), [20])  # again
        book.model("step_duplicates_total", 20)
        book.wire.outputs([a], [1], features(25), [25])  # again, and 5 more
        book.model("step_duplicates_total", 20)
        book.steps(5, alone=0)


def test_items_by_the_reason_that_they_fail_for(own: RunningServer) -> None:
    with ledger(own) as book:
        wire = book.wire
        a, b, d, e = create(book, 4)
        [word] = create(book, model="letters")
        assert _reasons(wire.step([a.handle], [9], features(1))) == ["STEP_CONFLICT"]
        book.failed("step_conflict")
        book.model("step_conflicts_total")
        wire.sessions.AttachSession(make.AttachSessionRequest(name=d.name))
        assert _reasons(wire.step([d.handle], [0], features(1))) == ["SESSION_FENCED"]
        book.strayed("session_fenced")
        book.model("step_conflicts_total", model="none")
        wire.step([a.handle, d.handle], [0, 0], features(2))
        book.steps(1)
        book.failed("session_fenced")
        book.model("step_conflicts_total")
        wire.step([77 << 24], [0], features(1))
        book.strayed("session_not_found")
        wire.sessions.DeleteSession(make.DeleteSessionRequest(name=e.name))
        book.ended("closed")
        wire.step([e.handle], [0], features(1))
        book.strayed("session_ended")
        bad = features(2)
        bad[1, 0] = np.nan
        wire.step([a.handle, b.handle], [1, 0], bad)
        book.steps(1)
        book.failed("non_finite_input")
        wire.step([a.handle, word.handle], [2, 0], features(2))
        book.steps(1)
        book.failed("mixed_models")
        wire.step([a.handle, b.handle], [3, 0], features(1), [1, 0])
        book.steps(1)
        book.failed("chunk_too_long")
        wire.step([word.handle], [0], np.array([11]))
        book.failed("token_out_of_range", model="letters")
        with pytest.raises(grpc.RpcError):
            wire.step([a.handle, b.handle], [4, 0], features(2, 4))
        book.failed("input_mismatch", 2)
        known = pb.StepRequest(
            handles=[b.handle],
            step_indexes=[0],
            durable_indexes=[7],
            inputs=tensors.encode(features(1)),
        )
        wire.inference.Step(known)
        book.failed("steps_lost")


def _reasons(response: pb.StepResponse) -> list[str]:
    return [error.reason for error in response.errors]


def test_rows_that_are_not_finite_and_what_they_bring(own: RunningServer) -> None:
    with ledger(own, model="explosive") as book:
        wire = book.wire
        good, bad = create(book, 2, model="explosive")
        handles = [good.handle, bad.handle]
        wire.outputs(handles, [0, 0], np.ones((2, 1), np.float32))
        book.steps(2)
        wire.step(handles, [1, 1], np.array([[1.0], [3e38]], np.float32))
        book.steps(1)
        book.model("nonfinite_rows_total")
        book.model("sessions_quarantined_total")
        book.failed("session_quarantined")
        wire.step([bad.handle], [1], np.ones((1, 1), np.float32))
        book.failed("session_quarantined")
        request = make.RewindSessionRequest(name=bad.name, steps=0)
        wire.sessions.RewindSession(request)
        book.model("rewinds_total")


def test_who_is_refused_because_too_much_waits(own: RunningServer) -> None:
    door = version_of(own, "tiny").door
    with ledger(own) as book, grpc.insecure_channel(own.target) as channel:

        def handles(tenant: str, count: int) -> list[int]:
            book.model("sessions_created_total", count)
            return [book.wire.create_for(tenant).handle for _ in range(count)]

        a, b, c, urgent = handles("a", 11), handles("b", 10), handles("c", 1), handles("urgent", 4)
        bulk = [handles(f"bulk-{n}", 4) for n in range(4)]
        step: Any = Wire(channel).inference.Step

        def request(some: list[int], tenant: str, **fields: Any) -> tuple[Any, Any]:
            inputs = tensors.encode(features(len(some)))
            message = pb.StepRequest(
                handles=some, step_indexes=[0] * len(some), inputs=inputs, **fields
            )
            return message, (("x-carousel-tenant", tenant),)

        def send(some: list[int], tenant: str, inside: int, **fields: Any) -> Any:
            message, metadata = request(some, tenant, **fields)
            call = step.future(message, metadata=metadata)
            until(lambda: door.inside == inside)
            book.call("InferenceService/Step")
            return call

        def refuse(some: list[int], tenant: str) -> None:
            message, metadata = request(some, tenant)
            with pytest.raises(grpc.RpcError):
                step(message, metadata=metadata)
            book.call("InferenceService/Step", "RESOURCE_EXHAUSTED")

        with held_up(own):
            calls = [send(a[:8], "a", 8)]
            refuse(a[8:], "a")
            book.model("admission_rejected_total", 3, reason="tenant_full")
            calls.append(send(b, "b", 18))  # of these 10 the first 8 may wait
            book.model("admission_rejected_total", 2, reason="tenant_full")
            refuse(c, "c")
            book.model("admission_rejected_total", 1, reason="queue_full")
        assert [len(call.result(PATIENCE).errors) for call in calls] == [0, 2]
        book.failed("queue_full", 6)
        book.steps(16)
        with held_up(own):
            calls = [
                send(some, f"bulk-{n}", 4 * n + 4, priority=pb.PRIORITY_BULK)
                for n, some in enumerate(bulk)
            ]
            calls.append(send(urgent, "urgent", 20))
        reasons = [error.reason for call in calls for error in call.result(PATIENCE).errors]
        assert reasons.count("QUEUE_FULL") == 4
        book.model("admission_rejected_total", 4, reason="shed")
        book.failed("queue_full", 4)
        book.steps(16)


def test_late_and_abandoned_work_by_the_phase_that_it_had_come_to(own: RunningServer) -> None:
    hall, version = own.server.hall, version_of(own, "tiny")
    with ledger(own) as book:
        late, gone, slow = (one.handle for one in create(book, 3))
        answers: list[Answer] = []

        def work(handle: int, count: int = 1, **fields: Any) -> Work:
            lengths = None if count == 1 else np.array([count])
            return Work([handle], [0], features(count), answers.append, lengths=lengths, **fields)

        works = [work(late, deadline=time.monotonic() - 1), work(gone), work(slow, LONG)]
        works[1].cancelled = True
        steps = {"model": "tiny", "version": "1"}
        before = _sum(own, "carousel_steps_total", steps)
        for one in works:
            own.loop.call_soon_threadsafe(hall.submit, version, one)
        until(lambda: _sum(own, "carousel_steps_total", steps) > before)
        works[2].deadline = 0.0
        until(lambda: len(answers) == 3)
        [(_, error)] = answers[2].errors
        book.steps(int(error.metadata["committed_steps"]), alone=0)
        book.failed("deadline_exceeded", 2)
        book.failed("cancelled")
        book.model("deadline_dropped_total", phase="queue")
        book.model("deadline_dropped_total", phase="compute")


def test_sessions_by_how_they_began_and_ended(own: RunningServer, clock: Clock) -> None:
    with ledger(own) as book:
        wire = book.wire
        [source] = create(book, rewind_depth=2)
        wire.outputs([source.handle], [0], features(1))
        book.steps(1)
        wire.sessions.ForkSession(make.ForkSessionRequest(name=source.name, count=3))
        book.model("forks_total", 3)
        book.model("sessions_created_total", 3)
        exported = wire.sessions.ExportSession(make.ExportSessionRequest(name=source.name))
        wire.sessions.ImportSession(make.ImportSessionRequest(snapshot=exported.snapshot))
        book.model("sessions_created_total")
        wire.sessions.RewindSession(make.RewindSessionRequest(name=source.name, steps=1))
        book.model("rewinds_total")
        wire.sessions.DeleteSession(make.DeleteSessionRequest(name=source.name))
        book.ended("closed")
        [sync] = create(book, durability=session_pb2.DURABILITY_SYNC)
        book.model("snapshots_total")
        wire.outputs([sync.handle], [0], features(1))
        book.steps(1)
        book.model("snapshots_total")
        soon = Duration(seconds=10)
        create(book, ttl=soon)
        book.ended("idle")
        create(book, lifetime=soon)
        book.ended("lifetime")
        [sick] = create(book, model="explosive", ttl=soon)
        wire.step([sick.handle], [0], np.array([[3e38]], np.float32))
        book.model("nonfinite_rows_total", model="explosive")
        book.model("sessions_quarantined_total", model="explosive")
        book.failed("session_quarantined", model="explosive")
        clock.ahead += 20
        book.ended("quarantined", model="explosive")


def test_tokens_and_generations_that_are_taken_up_again(own: RunningServer) -> None:
    with ledger(own, model="letters") as book:
        [session] = create(book, model="letters")
        request = pb.GenerateRequest(
            handle=session.handle,
            step_index=0,
            tokens=pb.TokenList(ids=[3]),
            max_tokens=5,
            seed=7,
        )
        stub: Any = book.wire.inference
        first = [response.token for response in stub.Generate(request)]
        book.call("InferenceService/Generate", kind="server_stream", sent=5)
        book.steps(6)
        book.model("generated_tokens_total", 5)
        book.model("time_to_first_token_seconds_count")
        book.model("time_per_output_token_seconds_count", 4)
        assert [response.token for response in stub.Generate(request)] == first
        book.call("InferenceService/Generate", kind="server_stream", sent=5)
        book.model("step_duplicates_total", 5)
        book.model("stream_resumes_total")


def test_streams_and_those_that_break_off(own: RunningServer) -> None:
    def message(handles: list[int], index: int) -> pb.StreamStepsRequest:
        inputs = tensors.encode(features(len(handles)))
        indexes = [index] * len(handles)
        step = pb.StepRequest(handles=handles, step_indexes=indexes, inputs=inputs)
        return pb.StreamStepsRequest(step=step)

    with ledger(own) as book:
        one, two = (session.handle for session in create(book, 2))
        stub: Any = book.wire.inference
        answers = list(stub.StreamSteps(iter([message([one, two], 0), message([one], 7)])))
        stream = {"kind": "bidi_stream", "received": 2, "sent": len(answers)}
        book.call("InferenceService/StreamSteps", **stream)  # type: ignore[arg-type]
        book.steps(2)
        book.failed("step_conflict")
        book.model("step_conflicts_total")
        enough = threading.Event()

        def stays_open() -> Iterator[pb.StreamStepsRequest]:
            yield message([one, two], 1)
            enough.wait(PATIENCE)

        call = stub.StreamSteps(stays_open())
        next(call)
        call.cancel()
        enough.set()
        book.call("InferenceService/StreamSteps", "CANCELLED", kind="bidi_stream", sent=1)
        book.steps(2)
        labels = {"grpc_method": "StreamSteps", "grpc_code": "CANCELLED"}
        until(lambda: _sum(own, "grpc_server_handled_total", labels) == 1)
        for _ in range(2):  # who comes back is told of once
            next(answers := stub.StreamSteps(iter([message([one], 1)])))
            assert list(answers) == []
            book.call("InferenceService/StreamSteps", kind="bidi_stream")
        book.model("step_duplicates_total", 2)
        book.model("stream_resumes_total")


def _sum(server: RunningServer, name: str, labels: dict[str, str]) -> float:
    found = counts(server).items()
    return sum(v for (one, own), v in found if one == name and labels.items() <= dict(own).items())


def test_nothing_is_lost_or_counted_twice_with_several_clients_at_once(own: RunningServer) -> None:
    with ledger(own) as book:

        def client(seed: int) -> None:
            dice = random.Random(seed)
            sessions = [[one.handle, 0] for one in create(book, 4)]
            for _ in range(60):
                riders = dice.sample(sessions, dice.randint(1, 2))
                wrong = dice.random() < 0.2
                indexes = [index + 5 * wrong for _, index in riders]
                response = book.wire.step(
                    [handle for handle, _ in riders], indexes, features(len(riders))
                )
                assert len(response.errors) == len(riders) * wrong
                if wrong:
                    book.failed("step_conflict", len(riders))
                    book.model("step_conflicts_total", len(riders))
                else:
                    book.steps(len(riders))
                    for rider in riders:
                        rider[1] += 1

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(client, seed) for seed in range(4)]:
                done.result(PATIENCE)


def test_whatever_has_fixed_labels_is_there_from_the_start(
    serve: Callable[..., RunningServer],
) -> None:
    found = counts(serve(shipped=False, load="tiny"))
    by_model = {
        "sessions_ended_total": (
            "reason",
            "closed idle lifetime evicted quarantined drained error",
        ),
        "admission_rejected_total": ("reason", "session_full tenant_full queue_full shed"),
        "deadline_dropped_total": ("phase", "queue compute"),
        "restore_failures_total": (
            "reason",
            "model_not_found model_not_loaded snapshot_damaged snapshot_mismatch steps_lost "
            "version_not_found",
        ),
        "state_health_actions_total": ("action", "alert clip soft_reset reset"),
    }
    for name, (label, values) in by_model.items():
        for value in values.split():
            assert found[key(f"carousel_{name}", model="tiny", **{label: value})] == 0
    for reason in ("step_conflict", "session_fenced", "queue_full", "deadline_exceeded"):
        labels = {"model": "tiny", "version": "1", "reason": reason}
        assert found[key("carousel_steps_failed_total", **labels)] == 0
    codes = {dict(labels)["grpc_code"] for (name, labels) in found if "handled" in name}
    alerts = {"INTERNAL", "UNKNOWN"}  # whose first call must be an increase
    assert codes == alerts | {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "UNAVAILABLE"}


def test_no_sample_is_left_of_a_version_that_is_unloaded(
    serve: Callable[..., RunningServer],
) -> None:
    server = serve(shipped=False, default_durability="memory")
    version = version_of(server, "tiny")
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        handle = wire.create().handle
        wire.outputs([handle], [0], features(1))
        wire.step([handle], [5], features(1))
        assert ("tiny", "1") in _versions(server)
        name = "models/tiny/versions/1"
        stub: Any = wire.models
        stub.UnloadModelVersion(model_service_pb2.UnloadModelVersionRequest(name=name, force=True))
        answers: list[Answer] = []
        work = Work([handle], [1], features(1), answers.append)  # it was on its way
        server.loop.call_soon_threadsafe(server.server.hall.submit, version, work)
        until(lambda: len(answers) == 1)
        version.metrics.failed("SOMETHING_ELSE")
        assert ("tiny", "1") not in _versions(server)
        assert ("letters", "1") in _versions(server)
        stub.LoadModelVersion(model_service_pb2.LoadModelVersionRequest(name=name))
        assert counts(server)[key("carousel_steps_total", model="tiny", version="1")] == 0


def _versions(server: RunningServer) -> set[tuple[str, str]]:
    """All model versions that any sample speaks of."""
    metrics = server.server.metrics.registry.collect()
    labels = [sample.labels for metric in metrics for sample in metric.samples]
    return {(one["model"], one["version"]) for one in labels if "version" in one and "model" in one}


def test_restores_and_those_that_fail(serve: Callable[..., RunningServer]) -> None:
    first = serve(shipped=False)
    with grpc.insecure_channel(first.target) as channel:
        wire = Wire(channel)
        good, bad, over, _ = (wire.create() for _ in range(4))
        wire.outputs([good.handle], [0], features(1))
    first.stop()
    with closing(sqlite3.connect(first.settings.data_folder / "sessions.db")) as database:
        key_of_it = (bad.name.removeprefix("sessions/"),)
        [(data,)] = database.execute("SELECT data FROM entries WHERE id = ?", key_of_it)
        with database:
            ruined = (data[:-1] + bytes([data[-1] ^ 1]), *key_of_it)
            database.execute("UPDATE entries SET data = ? WHERE id = ?", ruined)
    second = serve(shipped=False, gate_sample_seconds=0)
    with ledger(second) as book:
        sessions = book.wire.sessions
        back = sessions.AttachSession(make.AttachSessionRequest(name=good.name))
        assert back.step_index == 1
        book.model("restores_total")
        book.model("snapshots_total")  # the store knows of the new handle
        for name, code in ((bad.name, "DATA_LOSS"), ("sessions/unknown", "NOT_FOUND")):
            with pytest.raises(grpc.RpcError) as failure:
                sessions.AttachSession(make.AttachSessionRequest(name=name))
            assert failure.value.code().name == code
        book.model("restore_failures_total", model="none", reason="snapshot_damaged")
        sessions.DeleteSession(make.DeleteSessionRequest(name=over.name))
        book.ended("closed")


def test_a_restore_that_fails_moves_a_sample_that_was_there_with_0(
    serve: Callable[..., RunningServer],
) -> None:
    """A sample that begins with 1 is no increase: nobody would be told of the first failure."""
    first = serve(shipped=False)
    with grpc.insecure_channel(first.target) as channel:
        session = Wire(channel).create()  # of `tiny`
    first.stop()
    second = serve(shipped=False, load="letters", gate_sample_seconds=0)
    entry = key("carousel_restore_failures_total", model="none", reason="model_not_loaded")
    assert counts(second)[entry] == 0
    with ledger(second) as book:
        with pytest.raises(grpc.RpcError):
            book.wire.sessions.AttachSession(make.AttachSessionRequest(name=session.name))
        book.model("restore_failures_total", model="none", reason="model_not_loaded")
