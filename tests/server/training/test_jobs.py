"""Jobs as records: made once, in order, refused with reasons; no process runs here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2

from carousel.errors import CheckpointNotFound, ImportRefused
from carousel.server.services.training_service import reading
from carousel.server.training.data_folder import DataFolder
from carousel.server.training.database import Database
from carousel.server.training.leases import LeaseLost, Leases
from carousel.server.training.recipes import decode_recipe, encode_recipe
from carousel.v1 import training_pb2
from carousel.v1 import training_service_pb2 as pb
from tests.conftest import RunningServer, running
from tests.server.contract import error_of
from tests.server.training.conftest import Start
from tests.server.training.wire import FOX, Training, recipe

TABLE = "day,load\n" + "".join(f"{day},{day % 7}\n" for day in range(400))


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that runs no jobs: what is made stays as it was made."""
    root = tmp_path_factory.mktemp("idle")
    (root / "roots").mkdir()
    (root / "roots" / "fox.txt").write_text(FOX)
    with running(
        store=root / "models",
        shipped=False,
        training_jobs_at_once=0,
        training_queue=6,
        dataset_roots=(root / "roots",),
    ) as server:
        with grpc.insecure_channel(server.target) as channel:
            Training(channel).upload(FOX, name="fox.txt", id="fox")
            Training(channel).upload(TABLE, name="loads.csv", id="loads")
        yield server


@pytest.fixture
def jobs(idle: RunningServer) -> Iterator[Training]:
    """Speaks to the idle server, whose jobs of the test before are gone."""
    with grpc.insecure_channel(idle.target) as channel:
        training = Training(channel)
        for job in training.stub.ListJobs(pb.ListJobsRequest()).jobs:
            training.stub.CancelJob(pb.CancelJobRequest(name=job.name))
            training.stub.DeleteJob(pb.DeleteJobRequest(name=job.name))
        yield training


def refusal(training: Training, *args: object, **fields: object) -> str:
    with pytest.raises(grpc.RpcError) as failed:
        training.create(*args, **fields)  # type: ignore[arg-type]
    return str(error_of(failed.value))


def test_an_answer_has_every_default_filled_in(jobs: Training) -> None:
    made = jobs.create("one")
    assert made.name == "jobs/one"
    assert made.state == training_pb2.JOB_STATE_QUEUED
    assert made.workers == 1
    assert made.recipe.optimizer == training_pb2.OPTIMIZER_KIND_ADAMW
    assert made.recipe.learning_rate == 0.003
    assert made.recipe.validation_share == 0.1
    assert jobs.get("one") == made
    assert jobs.dataset("fox").jobs == 1


def test_validating_alone_leaves_nothing(jobs: Training) -> None:
    checked = jobs.create("one", validate_only=True)
    assert checked.recipe.max_steps == 20
    assert not jobs.stub.ListJobs(pb.ListJobsRequest()).jobs
    assert "DATASET_NOT_FOUND" in refusal(jobs, dataset="nothing", validate_only=True)


def test_the_same_request_makes_one_job(jobs: Training) -> None:
    first = jobs.create(request_id="r1")
    assert jobs.create(request_id="r1") == first
    assert len(jobs.stub.ListJobs(pb.ListJobsRequest()).jobs) == 1
    assert "another request" in refusal(jobs, request_id="r1", priority=3)
    assert "JOB_EXISTS" in refusal(jobs, first.name.removeprefix("jobs/"))


def test_recipes_are_the_same_on_the_way_there_and_back() -> None:
    sent = recipe(
        forecast=training_pb2.ForecastTask(targets=["a"], horizon=3),
        network=training_pb2.NetworkShape(cell="gru", dropout=0.1, weight_dropout=0.7),
        averaging=training_pb2.AVERAGING_KIND_EMA,
        clip_norm=0.0,
        momentum=0.5,
    )
    sent.max_duration.FromMilliseconds(1500)
    there = decode_recipe(sent)
    assert there.network.dropout == 0.1
    assert there.clip_norm == 0.0
    assert there.max_seconds == 1.5
    assert decode_recipe(encode_recipe(there.to_dict())) == there


def test_what_does_not_fit_the_dataset_is_refused_at_once(jobs: Training) -> None:
    forecast = recipe(forecast=training_pb2.ForecastTask(targets=["lod"]))
    refused = refusal(jobs, dataset="loads", recipe=forecast)
    assert "targets names 'lod'" in refused
    assert "day, load" in refused
    classify = recipe(classify=training_pb2.ClassifyTask(label_column="load"))
    assert "sequence_column must be set" in refusal(jobs, dataset="loads", recipe=classify)
    tag = recipe(tag=training_pb2.TagTask())
    assert "label_column must be set" in refusal(jobs, dataset="loads", recipe=tag)
    assert "learns from text" in refusal(jobs, dataset="loads")
    assert "learns from a table" in refusal(jobs, recipe=forecast)


def test_what_is_impossible_is_refused_with_its_field(jobs: Training) -> None:
    assert "must have a task" in refusal(jobs, recipe=training_pb2.Recipe())
    assert "priority" in refusal(jobs, priority=101)
    assert "workers" in refusal(jobs, workers=65)
    assert "either a dataset or a uri" in refusal(jobs, uri="")
    assert "without '.' and '..'" in refusal(jobs, uri="../fox.txt")
    assert "promotion.model" in refusal(jobs, promotion=training_pb2.Promotion(alias="stable"))
    assert "margin" in refusal(
        jobs, promotion=training_pb2.Promotion(model="models/m", alias="a", margin=1.5)
    )
    assert jobs.create(uri="fox.txt").uri == "fox.txt"


@pytest.mark.parametrize(
    ("wrong", "field", "said"),
    [
        ({"window": 2**21}, "window", "must be an integer between 1 and 1048576, got 2097152"),
        ({"momentum": 1.5}, "momentum", "must be at least 0 and below 1, got 1.5"),
        ({"learning_rate": float("nan")}, "learning_rate", "must be at least 0, got nan"),
        ({"test_share": 0.85}, "validation_share", "and test_share must be at most 0.9 together"),
        ({"max_duration": duration_pb2.Duration(seconds=-1)}, "max_duration", "at least 0, got -1"),
        ({"optimizer": 9}, "optimizer", "must be one of OptimizerKind, got 9"),
        (
            {"network": training_pb2.NetworkShape(cell="lsmt")},
            "network.cell",
            "must be one of lstm, gru, rnn_tanh, rnn_relu, got 'lsmt'",
        ),
        (
            {"network": training_pb2.NetworkShape(layers=65)},
            "network.layers",
            "must be an integer between 1 and 64, got 65",
        ),
        (
            {"network": training_pb2.NetworkShape(layers=1, dropout=0.5)},
            "network.dropout",
            "acts between layers",
        ),
        (
            {"language_model": training_pb2.LanguageModelTask(vocabulary=3)},
            "language_model.vocabulary",
            "must be an integer between 257 and",
        ),
        ({"forecast": training_pb2.ForecastTask()}, "forecast.targets", "must be given"),
        (
            {"forecast": training_pb2.ForecastTask(targets=["a"], time_column="a")},
            "forecast.time_column",
            "names 'a' again",
        ),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said_with_its_field(
    jobs: Training, wrong: dict[str, Any], field: str, said: str
) -> None:
    for validate_only in (True, False):
        with pytest.raises(grpc.RpcError) as failed:
            jobs.create(recipe=recipe(**wrong), validate_only=validate_only)
        error = error_of(failed.value)
        assert (error.reason, error.field) == ("INVALID_FIELD", f"job.recipe.{field}")
        assert error.message.startswith(f"job.recipe.{field} ")
        assert said in error.message


def test_the_queue_is_bounded(jobs: Training) -> None:
    for _ in range(6):
        jobs.create()
    with pytest.raises(grpc.RpcError) as failed:
        jobs.create()
    assert error_of(failed.value).reason == "QUEUE_FULL"
    assert error_of(failed.value).retry_after


def test_jobs_are_listed_newest_first_in_pages(jobs: Training) -> None:
    for id in ("one", "two", "three"):
        jobs.create(id, promotion=training_pb2.Promotion(model=f"models/{id}"))
    jobs.cancel("two")
    first = jobs.stub.ListJobs(pb.ListJobsRequest(page_size=2))
    assert [job.name for job in first.jobs] == ["jobs/three", "jobs/two"]
    second = jobs.stub.ListJobs(pb.ListJobsRequest(page_size=2, page_token=first.next_page_token))
    assert [job.name for job in second.jobs] == ["jobs/one"]
    assert not second.next_page_token
    cancelled = pb.ListJobsRequest(states=[training_pb2.JOB_STATE_CANCELLED])
    assert [job.name for job in jobs.stub.ListJobs(cancelled).jobs] == ["jobs/two"]
    of_model = pb.ListJobsRequest(model="models/one")
    assert [job.name for job in jobs.stub.ListJobs(of_model).jobs] == ["jobs/one"]


def test_a_job_goes_from_state_to_state_as_it_is_told(jobs: Training) -> None:
    jobs.create("one")
    with pytest.raises(grpc.RpcError) as failed:
        jobs.resume("one")
    assert error_of(failed.value).reason == "JOB_NOT_RESUMABLE"
    with pytest.raises(grpc.RpcError) as failed:
        jobs.stub.DeleteJob(pb.DeleteJobRequest(name="jobs/one"))
    assert error_of(failed.value).reason == "JOB_ACTIVE"
    assert jobs.cancel("one").state == training_pb2.JOB_STATE_CANCELLED
    assert jobs.cancel("one").state == training_pb2.JOB_STATE_CANCELLED
    assert jobs.resume("one", max_steps=30).recipe.max_steps == 30
    jobs.cancel("one")
    events = list(jobs.watch("one"))
    assert [event.sequence for event in events] == [1, 2, 3, 4]
    assert [event.sequence for event in jobs.watch("one", after=2)] == [3, 4]
    jobs.stub.DeleteJob(pb.DeleteJobRequest(name="jobs/one"))
    with pytest.raises(grpc.RpcError) as failed:
        jobs.get("one")
    assert error_of(failed.value).reason == "JOB_NOT_FOUND"


def test_a_dataset_that_a_job_needs_stays(jobs: Training) -> None:
    jobs.create("one", dataset="fox")
    with pytest.raises(grpc.RpcError) as failed:
        jobs.stub.DeleteDataset(pb.DeleteDatasetRequest(name="datasets/fox"))
    assert error_of(failed.value).reason == "DATASET_IN_USE"


def test_the_queue_is_served_by_priority_then_by_age(start: Start) -> None:
    server, jobs = start(training_jobs_at_once=0)
    jobs.upload(FOX, name="fox.txt", id="fox")
    for id, priority in (("low", -5), ("first", 0), ("second", 0), ("high", 7)):
        jobs.create(id, priority=priority)
    leases = _leases(server.settings.data_folder, "a")
    claimed = [leases.claim(new=True) for _ in range(5)]
    assert [job.id for job in claimed if job] == ["high", "first", "second", "low"]
    assert claimed[-1] is None


def test_a_job_has_one_owner(start: Start) -> None:
    server, jobs = start(training_jobs_at_once=0)
    jobs.upload(FOX, name="fox.txt", id="fox")
    jobs.create("one")
    ours, theirs = (_leases(server.settings.data_folder, owner) for owner in "ab")
    job = ours.claim(new=True)
    assert job is not None
    assert theirs.claim(new=True) is None
    assert theirs.renew([job.number]) == {}
    with pytest.raises(LeaseLost), theirs.write(job.number):
        pass
    with ours.write(job.number) as (_, held):
        held.lease_until = 1.0  # as if we had died long ago
    taken = theirs.claim(new=False)
    assert taken is not None
    assert taken.number == job.number
    with pytest.raises(LeaseLost), ours.write(job.number):
        pass


def _leases(folder: Path, owner: str) -> Leases:
    return Leases(Database(folder), DataFolder(folder), owner)


def test_a_checkpoint_that_goes_while_it_is_read_is_not_found(tmp_path: Path) -> None:
    refused = ImportRefused("path must lead to a folder")
    with pytest.raises(ImportRefused), reading(tmp_path, "jobs/a/checkpoints/5"):
        raise refused
    gone = tmp_path / "00000005"
    missing = pytest.raises(CheckpointNotFound, match="was removed while")
    with missing, reading(gone, "jobs/a/checkpoints/5"):
        raise refused
