"""Jobs with real processes: to their end, cancelled, killed, refused, promoted."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import get_ident
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import update

from carousel.model.training.precision import has_bfloat16
from carousel.server.store import ModelStore
from carousel.server.training.bells import Bells
from carousel.server.training.checks import MOST_BYTES
from carousel.server.training.job_folder import JobFolder
from carousel.server.training.leases import Leases
from carousel.server.training.metrics import TrainingMetrics
from carousel.server.training.office import Office
from carousel.server.training.process import Share, signal_all
from carousel.server.training.promotion import try_turn
from carousel.server.training.records import RUNNING, JobRecord
from carousel.server.training.run import Run
from carousel.server.training.workshop import Workshop
from carousel.v1 import model_service_pb2, training_pb2
from carousel.v1 import training_service_pb2 as pb
from tests.conftest import RunningServer
from tests.processes import PATIENCE, until
from tests.server.contract import Wire, error_of
from tests.server.training.conftest import Start
from tests.server.training.wire import FOX, Training, recipe, states


def folder_of(server: RunningServer, job: str) -> Path:
    """Where a job's process works."""
    return server.server.office.folder.job(server.server.office.jobs.get(job).number)


FOX_STABLE = training_pb2.Promotion(model="models/fox", alias="stable")


@pytest.fixture(scope="module")
def first(trainer: RunningServer) -> list[training_pb2.JobEvent]:
    """The events of a job that became the first version of `fox`."""
    with grpc.insecure_channel(trainer.target) as channel:
        training = Training(channel)
        training.create("first", promotion=FOX_STABLE)
        return list(training.watch("first"))


def test_a_job_becomes_a_version_and_old_sessions_live_on(
    training: Training, trainer_channel: grpc.Channel, first: list[training_pb2.JobEvent]
) -> None:
    assert states(first) == ["queued", "preparing", "running", "succeeded"]
    assert [event.sequence for event in first] == list(range(1, len(first) + 1))
    assert {event.WhichOneof("event") for event in first} >= {
        "progress", "evaluation", "gradients", "checkpoint",
    }  # fmt: skip
    job = training.get("first")
    assert job.version == "models/fox/versions/1"
    assert job.evaluation.split == "test"
    assert job.progress.step == job.checkpoint_step == 20
    assert job.parameters > 0
    assert job.attempts == 1

    wire = Wire(trainer_channel)
    version = wire.models.GetModelVersion(
        model_service_pb2.GetModelVersionRequest(name=job.version)
    )
    baseline = json.loads(version.baseline_json)
    assert baseline["steps"] > 100
    assert set(baseline["layers"][0]["gates"]) >= {"forget", "cell"}
    old = wire.create("models/fox")
    training.create("second", promotion=FOX_STABLE)
    assert training.finish("second").version == "models/fox/versions/2"
    new = wire.create("models/fox")
    assert (old.model_version, new.model_version) == (
        "models/fox/versions/1",
        "models/fox/versions/2",
    )
    assert wire.outputs([old.handle], [0], np.array([1])).shape == (1, 28)
    assert wire.outputs([new.handle], [0], np.array([1])).shape == (1, 28)


@pytest.mark.usefixtures("first")
def test_checkpoints_can_be_promoted_and_looked_at(training: Training) -> None:
    listed = training.stub.ListCheckpoints(pb.ListCheckpointsRequest(parent="jobs/first"))
    assert listed.checkpoints[-1].step == 20
    best = "jobs/first/checkpoints/best"
    made = training.stub.PromoteCheckpoint(
        pb.PromoteCheckpointRequest(name=best, model="models/kept", alias="try")
    )
    assert made.version == "models/kept/versions/1"
    flow = training.stub.DiagnoseGradients(
        pb.DiagnoseGradientsRequest(name=best, window=16), timeout=PATIENCE
    ).gradients
    assert len(flow.layers[0].hidden_norms) == 16
    assert flow.verdict


@pytest.mark.usefixtures("first")
def test_a_checkpoint_is_promoted_when_no_other_server_promotes(
    training: Training, trainer: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, were = trainer.settings.store / "later", list[bool]()
    with ExitStack() as turn:
        assert try_turn(trainer.settings.store, turn)

        def refused() -> None:
            were.append(model.exists())
            turn.close()

        when_refused(monkeypatch, refused)
        best = "jobs/first/checkpoints/best"
        made = training.stub.PromoteCheckpoint(
            pb.PromoteCheckpointRequest(name=best, model="models/later"), timeout=PATIENCE
        )
    assert made.version == "models/later/versions/1"
    assert were == [False]


@pytest.mark.usefixtures("first")
def test_a_margin_keeps_what_is_no_better_from_being_promoted(training: Training) -> None:
    promotion = training_pb2.Promotion(model="models/fox", alias="stable", margin=0.99)
    training.create("shut", promotion=promotion)
    shut = training.finish("shut")
    assert shut.state == training_pb2.JOB_STATE_SUCCEEDED
    assert not shut.version
    assert "not promoted: its test loss" in shut.state_message


def test_a_gate_asks_again_when_its_alias_moved_while_the_job_learned(
    training: Training, trainer: RunningServer
) -> None:
    promotion = training_pb2.Promotion(model="models/moved", alias="stable", margin=0.0)
    training.create("moved", promotion=promotion)
    assert training.finish("moved").version == "models/moved/versions/1"
    office = trainer.server.office
    assert JobFolder(folder_of(trainer, "moved")).baseline is None
    with office.database.begin() as session:  # as it was before its result was held against any
        again = {"state": RUNNING, "lease_until": 0.0, "version": 0, "promoted": False}
        session.execute(update(JobRecord).where(JobRecord.id == "moved").values(again))
    held = training.finish("moved")
    assert held.state == training_pb2.JOB_STATE_SUCCEEDED
    assert not held.version
    assert "not promoted: its test loss" in held.state_message
    assert any("stable moved while it learned" in e.warning for e in training.watch("moved"))


def test_a_gate_is_asked_when_no_other_server_promotes(
    training: Training, trainer: RunningServer
) -> None:
    other = ModelStore(trainer.settings.store)
    with ExitStack() as turn:
        assert try_turn(other.root, turn)
        promotion = training_pb2.Promotion(model="models/both", alias="stable", margin=0.0)
        training.create("both", promotion=promotion)
        result = JobFolder(folder_of(trainer, "both")).result
        until(result.exists)
        other.set_alias("both", "stable", other.add("both", result).number)
    held = training.finish("both")
    assert held.state == training_pb2.JOB_STATE_SUCCEEDED
    assert not held.version
    assert "not promoted: its test loss" in held.state_message


def test_bad_data_that_was_too_large_to_look_at_fails_its_job_with_row_and_column(
    start: Start, tmp_path: Path
) -> None:
    note = "-" * 100_000
    rows = [f"{day},{day % 7},{note}" for day in range(MOST_BYTES // len(note) + 3)]
    rows[299] = "299,many,"
    (tmp_path / "roots").mkdir()
    (tmp_path / "roots" / "bad.csv").write_text("day,load,note\n" + "\n".join(rows) + "\n")
    _, training = start(dataset_roots=(tmp_path / "roots",))
    training.create(
        "bad", uri="bad.csv", recipe=recipe(forecast=training_pb2.ForecastTask(targets=["load"]))
    )
    job = training.finish("bad")
    assert job.state == training_pb2.JOB_STATE_FAILED
    assert "row 300" in job.state_message
    assert "'load'" in job.state_message


def test_a_precision_that_the_machine_lacks_is_refused_before_the_job_is_made(
    training: Training,
) -> None:
    wanted = recipe(precision=training_pb2.PRECISION_BFLOAT16)
    if has_bfloat16():
        checked = training.create(recipe=wanted, validate_only=True)
        assert checked.recipe.precision == training_pb2.PRECISION_BFLOAT16
        return
    with pytest.raises(grpc.RpcError) as failed:
        training.create("narrow", recipe=wanted)
    error = error_of(failed.value)
    assert (error.reason, error.field) == ("INVALID_FIELD", "job.recipe.precision")
    assert "must be float32 here, got bfloat16" in error.message


def test_a_cancelled_job_keeps_a_checkpoint_and_goes_on_from_it(training: Training) -> None:
    training.create("long", recipe=recipe(max_steps=1_000_000, evaluate_every=100))
    training.until("long", "progress")
    assert training.cancel("long").state == training_pb2.JOB_STATE_CANCELLING
    cancelled = training.finish("long")
    assert cancelled.state == training_pb2.JOB_STATE_CANCELLED
    there = cancelled.checkpoint_step
    assert there > 0
    training.resume("long", max_steps=there + 5)
    seen = training.get("long").progress.step
    resumed = training.finish("long")
    assert resumed.state == training_pb2.JOB_STATE_SUCCEEDED
    assert resumed.progress.step == there + 5 > seen - 5
    assert resumed.attempts == 2


@pytest.mark.parametrize("prepared", [False, True])
def test_a_job_that_is_cancelled_while_its_process_is_started_is_cancelled(
    start: Start, prepared: bool
) -> None:
    server, training = start(training_jobs_at_once=0)
    training.upload(FOX, name="fox.txt", id="fox")
    training.create("job")
    office = server.server.office
    shop, job = claimed(office)
    if prepared:
        JobFolder(office.folder.job(job.number)).corpus.mkdir(parents=True)
    training.cancel("job")  # after the run has looked, before it says what it does
    asyncio.run(Run(job, shop).main())
    ended = training.finish("job")
    assert ended.state == training_pb2.JOB_STATE_CANCELLED
    assert ended.attempts == 0


def test_a_job_that_waits_for_its_turn_to_promote_does_what_it_is_told(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, training = start(training_jobs_at_once=0)
    training.upload(FOX, name="fox.txt", id="fox")
    promotion = {"promotion": FOX_STABLE}
    with ExitStack() as turn:
        assert try_turn(server.settings.store, turn)  # as another server has it
        run = run_with_result(server, training, "cancelled", **promotion)
        training.cancel("cancelled")
        threads = told_while_it_waits(run, run.cancel, monkeypatch)
        run = run_with_result(server, training, "left", **promotion)
        threads |= told_while_it_waits(run, lambda: run.leave(1.0), monkeypatch)
        lost = run_with_result(server, training, "lost", priority=1, **promotion)
        threads |= told_while_it_waits(lost, lost.lose, monkeypatch)
    assert training.get("cancelled").state == training_pb2.JOB_STATE_CANCELLED
    assert training.get("left").state == training_pb2.JOB_STATE_QUEUED
    assert training.get("lost").state == training_pb2.JOB_STATE_PREPARING
    assert get_ident() not in threads  # of the event loop, which a slow disk would hold up


def test_a_job_that_promotes_to_nothing_waits_for_nobody(start: Start) -> None:
    server, training = start(training_jobs_at_once=0)
    training.upload(FOX, name="fox.txt", id="fox")
    with ExitStack() as turn:
        assert try_turn(server.settings.store, turn)
        run = run_with_result(server, training, "job")
        asyncio.run(asyncio.wait_for(run.main(), PATIENCE))
        assert training.get("job").state == training_pb2.JOB_STATE_SUCCEEDED


def test_who_gives_up_waiting_for_a_turn_holds_up_nobody(trainer: RunningServer) -> None:
    promotion = trainer.server.office.promotion

    async def turns() -> str:
        async with promotion.turn():
            with pytest.raises(KeyError):
                async with promotion.turn(meanwhile=gives_up):
                    pass
        async with promotion.turn():
            return "mine"

    async def gives_up() -> None:
        raise KeyError

    assert asyncio.run(asyncio.wait_for(turns(), PATIENCE)) == "mine"


def run_with_result(server: RunningServer, training: Training, job_id: str, **more: Any) -> Run:
    """Of a job that has learned all and is still to be promoted."""
    training.create(job_id, **more)
    shop, job = claimed(server.server.office)
    folder = JobFolder(server.server.office.folder.job(job.number))
    for one in (folder.corpus, folder.result):
        one.mkdir(parents=True)
    return Run(job, shop)


def told_while_it_waits(
    run: Run, tell: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> set[int]:
    """Tell a run something each time that it does not get its turn, until it ends: the threads."""
    threads = set[int]()

    def refused() -> None:
        threads.add(get_ident())
        tell()

    with monkeypatch.context() as patch:
        when_refused(patch, refused)
        asyncio.run(asyncio.wait_for(run.main(), PATIENCE))
    return threads


def when_refused(patch: pytest.MonkeyPatch, tell: Callable[[], None]) -> None:
    """Have it known when somebody does not get a lock."""
    real = fcntl.flock

    def telling(handle: int, how: int) -> None:
        try:
            real(handle, how)
        except BlockingIOError:
            tell()
            raise

    patch.setattr(fcntl, "flock", telling)


def claimed(office: Office) -> tuple[Workshop, JobRecord]:
    """A job as another server has it, and what it needs for that."""
    leases = Leases(office.database, office.folder, "somebody")
    metrics = TrainingMetrics(CollectorRegistry())
    shop = Workshop(
        leases, office.folder, office.promotion, metrics, Bells(), share=Share(), grace=1.0
    )
    job = leases.claim(new=True)
    assert job is not None
    return shop, job


def test_a_killed_process_is_started_again_and_goes_on(
    training: Training, trainer: RunningServer
) -> None:
    training.create("killed", recipe=recipe(max_steps=1000, evaluate_every=500))
    checkpoint = training.until("killed", "checkpoint")
    assert signal_all(folder_of(trainer, "killed"), signal.SIGKILL) == 1
    events = list(training.watch("killed", after=checkpoint.sequence))
    assert states(events) == ["succeeded"]
    assert [e.sequence for e in events] == list(
        range(checkpoint.sequence + 1, checkpoint.sequence + 1 + len(events))
    )
    assert any("started again" in event.warning for event in events)
    assert training.get("killed").attempts == 2
    assert training.get("killed").progress.step == 1000


def test_workers_that_lost_their_head_are_ended_and_started_again(
    training: Training, trainer: RunningServer
) -> None:
    training.create(
        "pair", workers=2, recipe=recipe(max_steps=1000, evaluate_every=500, batch_size=4)
    )
    checkpoint = training.until("pair", "checkpoint")
    os.kill(trainer.server.office.jobs.get("pair").pid, signal.SIGKILL)  # torchrun alone
    events = list(training.watch("pair", after=checkpoint.sequence))
    assert states(events) == ["succeeded"]
    assert training.get("pair").attempts == 2
    assert signal_all(folder_of(trainer, "pair"), signal.SIGKILL) == 0


def test_a_watch_shows_signs_of_life(start: Start) -> None:
    server, training = start(training_jobs_at_once=0)
    server.server.training_service.heartbeat = 0.01
    training.upload(FOX, name="fox.txt", id="fox")
    training.create("quiet")
    responses = training.stub.WatchJob(pb.WatchJobRequest(name="jobs/quiet"), timeout=PATIENCE)
    assert any(not response.HasField("event") for response in responses)
