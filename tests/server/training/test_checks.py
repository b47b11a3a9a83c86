"""What can't be learned from is refused before a job is made of it, with row and column."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest

from carousel.errors import CarouselError
from carousel.server.training.checks import MOST_BYTES, Checks
from carousel.server.training.data_folder import DataFolder
from carousel.server.training.process import Share
from carousel.server.training.recipes import decode_recipe
from carousel.server.training.records import JobRecord
from carousel.v1 import training_pb2
from carousel.v1 import training_service_pb2 as pb
from tests.conftest import RunningServer, running
from tests.server.contract import error_of
from tests.server.training.wire import Training, recipe

ROWS = 40
PATIENCE = 120.0  # seconds, on a machine that is busy with other tests
FORECAST = {"forecast": training_pb2.ForecastTask(targets=["load"], time_column="day")}
CLASSIFY = {
    "classify": training_pb2.ClassifyTask(
        label_column="label", sequence_column="who", time_column="day"
    )
}
TAG = {"tag": training_pb2.TagTask(label_column="label")}
ARCHIVE = {"classify": training_pb2.ClassifyTask()}
TEXT: dict[str, Any] = {}

Columns = dict[str, list[Any]]


def series(**wrong: tuple[int, Any]) -> Columns:
    """Days with a load; `load=(3, "x")` puts that into row 3 (from 1)."""
    return spoiled({"day": list(range(ROWS)), "load": [d % 7 for d in range(ROWS)]}, wrong)


def labelled(**wrong: tuple[int, Any]) -> Columns:
    """Sequences of two rows, one behind the other, labelled a and b in turn."""
    columns: Columns = {
        "day": list(range(ROWS)),
        "who": [d // 2 for d in range(ROWS)],
        "load": [d % 7 for d in range(ROWS)],
        "label": ["ab"[d // 2 % 2] for d in range(ROWS)],
    }
    return spoiled(columns, wrong)


def spoiled(columns: Columns, wrong: dict[str, tuple[int, Any]]) -> Columns:
    for name, (row, value) in wrong.items():
        columns[name][row - 1] = value
    return columns


def csv(columns: Columns, *more: str) -> bytes:
    rows = [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    return ("\n".join([",".join(columns), *rows, *more]) + "\n").encode()


def json_lines(columns: Columns) -> bytes:
    rows = zip(*columns.values(), strict=True)
    return "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows).encode()


def parquet(columns: Columns) -> bytes:
    file = io.BytesIO()
    pa_parquet.write_table(pa.table(columns), file)
    return file.getvalue()


def archive(**arrays: Any) -> bytes:
    file = io.BytesIO()
    x = np.arange(ROWS * 3, dtype=np.float32).reshape(ROWS // 2, 2, 3)
    np.savez(file, **{"x": x, "y": np.arange(ROWS // 2) % 2, **arrays})
    return file.getvalue()


class Case(NamedTuple):
    """A file that is wrong for a task, where it is wrong, and what is said of it."""

    name: str
    data: bytes
    task: dict[str, Any]
    said: str
    row: int | None = None
    column: str | None = None


BAD = {
    "empty text": Case("a.txt", b"", TEXT, "at least 2 characters, got 0"),
    "not UTF-8": Case("a.txt", b"one\ntwo\n\xff\n" * 9, TEXT, "byte 0xff is not UTF-8", 3),
    "too short": Case("a.txt", b"ab", TEXT, "are too few"),
    "ragged": Case("a.csv", csv(series(), "40,1,1"), FORECAST, "Expected 2 columns, got 3", 41),
    "a word": Case("a.csv", csv(series(load=(5, "many"))), FORECAST, "'many' is", 5, "load"),
    "infinite": Case("a.csv", csv(series(load=(6, "inf"))), FORECAST, "be finite", 6, "load"),
    "no rows": Case("a.csv", csv({"day": [], "load": []}), FORECAST, "there are no rows"),
    "constant": Case(
        "a.csv", csv({**series(), "load": [3] * ROWS}), FORECAST, "is always 3", None, "load"
    ),
    "no value": Case(
        "a.csv", csv({**series(), "load": ["NaN"] * ROWS}), FORECAST, "no value", None, "load"
    ),
    "no time": Case("a.csv", csv(series(day=(7, ""))), FORECAST, "a time is missing", 7, "day"),
    "same time": Case("a.csv", csv(series(day=(7, 5))), FORECAST, "of row 6 again", 7, "day"),
    "no column": Case("a.csv", csv({"day": [1, 2]}), FORECAST, "no column 'load'", None, "load"),
    "label never seen": Case(
        "a.csv",
        csv(labelled(label=(ROWS, "z"), who=(ROWS, 99))),
        CLASSIFY,
        "label 'z' is in the test part, but never in the training part",
        ROWS,
        "label",
    ),
    "two labels": Case("a.csv", csv(labelled(label=(4, "a"))), CLASSIFY, "one label", 4, "label"),
    "no label": Case("a.csv", csv(labelled(label=(8, ""))), CLASSIFY, "is missing", 8, "label"),
    "one label": Case(
        "a.csv", csv({**labelled(), "label": ["a"] * ROWS}), TAG, "2 to 8192 different labels"
    ),
    "a word in JSON": Case(
        "a.jsonl", json_lines(series(load=(9, "many"))), FORECAST, "'many' is", 9, "load"
    ),
    "a list in JSON": Case(
        "a.jsonl", json_lines(series(load=(9, [1]))), FORECAST, "got a list", 9, "load"
    ),
    "no JSON": Case("a.jsonl", json_lines(series()) + b"{", FORECAST, "is not JSON", ROWS + 1),
    "a label in JSON": Case(
        "a.jsonl", json_lines(labelled(label=(3, None))), CLASSIFY, "is missing", 3, "label"
    ),
    "infinite in Parquet": Case(
        "a.parquet",
        parquet({**series(), "load": [1.0, float("-inf"), *range(ROWS - 2)]}),
        FORECAST,
        "be finite",
        2,
        "load",
    ),
    "words in Parquet": Case(
        "a.parquet", parquet({**series(), "load": ["many"] * ROWS}), FORECAST, "'many'", 1, "load"
    ),
    "no Parquet": Case("a.parquet", b"PAR0" * 9, FORECAST, "is not parquet"),
    "infinite in NumPy": Case(
        "a.npz",
        archive(x=np.where(np.arange(60).reshape(20, 3) == 13, np.inf, 0.5), y=np.arange(20) % 2),
        {"tag": training_pb2.TagTask()},
        "be finite",
        5,
        "x[1]",
    ),
    "too few labels in NumPy": Case(
        "a.npz", archive(y=np.arange(3)), ARCHIVE, "y must have 20 labels", None, "y"
    ),
    "constant in NumPy": Case(
        "a.npz", archive(x=np.ones((20, 2, 1))), ARCHIVE, "is always 1", None, "x[0]"
    ),
    "no NumPy": Case("a.npz", b"PK" * 9, ARCHIVE, "is no NumPy archive"),
}  # fmt: skip


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("roots")


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory, roots: Path) -> Iterator[RunningServer]:
    """A server that runs no jobs."""
    root = tmp_path_factory.mktemp("checks")
    with running(
        store=root / "models", shipped=False, training_jobs_at_once=0, dataset_roots=(roots,)
    ) as server:
        server.server.office.checks.seconds = PATIENCE
        yield server


@pytest.fixture
def jobs(idle: RunningServer) -> Iterator[Training]:
    """Speaks to the idle server; afterwards it has no jobs."""
    with grpc.insecure_channel(idle.target) as channel:
        training = Training(channel)
        yield training
        for job in training.stub.ListJobs(pb.ListJobsRequest()).jobs:
            training.cancel(job.name.removeprefix("jobs/"))
            training.stub.DeleteJob(pb.DeleteJobRequest(name=job.name))


def refused(training: Training, **fields: Any) -> CarouselError:
    with pytest.raises(grpc.RpcError) as failed:
        training.create(**fields)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return error_of(failed.value)


def left(server: RunningServer) -> list[Path]:
    """Folders of jobs, and what looking at data left."""
    data = server.settings.data_folder
    return [*data.glob("jobs/*"), *data.glob("scratch/*")]


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_bad_data_makes_no_job(
    idle: RunningServer, jobs: Training, roots: Path, case: Case
) -> None:
    (roots / case.name).write_bytes(case.data)
    for validate_only in (True, False):
        # The second is another recipe: what is known of the first says nothing of it.
        wanted = recipe(**case.task, seed=int(validate_only))
        error = refused(jobs, uri=case.name, recipe=wanted, validate_only=validate_only)
        assert (error.reason, error.field) == ("DATASET_INVALID", "job.uri")
        assert case.said in error.message
        places = {"row": case.row, "column": case.column}
        assert error.metadata == {k: str(v) for k, v in places.items() if v is not None}
        assert all(value in error.message for value in error.metadata.values())
        assert not jobs.stub.ListJobs(pb.ListJobsRequest()).jobs
        assert not left(idle)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_an_uploaded_table_is_looked_at_like_a_file(
    idle: RunningServer, jobs: Training, kind: str
) -> None:
    write = {"csv": csv, "jsonl": json_lines, "parquet": parquet}[kind]
    jobs.upload(write(labelled(label=(4, "a"))), name=f"a.{kind}", id=f"labels-{kind}")
    for validate_only in (True, False):
        error = refused(
            jobs,
            dataset=f"labels-{kind}",
            recipe=recipe(**CLASSIFY),
            validate_only=validate_only,
        )
        assert (error.reason, error.field) == ("DATASET_INVALID", "job.dataset")
        assert error.metadata == {"row": "4", "column": "label"}
    assert not left(idle)
    jobs.create(
        dataset=f"labels-{kind}",
        recipe=recipe(tag=training_pb2.TagTask(label_column="label", features=["load"])),
    )


def test_a_task_that_is_not_of_such_a_file_is_refused(jobs: Training, roots: Path) -> None:
    (roots / "fine.csv").write_bytes(csv(labelled()))
    error = refused(jobs, uri="fine.csv", validate_only=True)
    assert error.field == "job.recipe.language_model"
    assert "a language model learns from text" in error.message


def test_what_was_looked_at_is_not_looked_at_again(jobs: Training, roots: Path) -> None:
    file = roots / "seen.csv"
    file.write_bytes(csv(series()))
    jobs.create(uri="seen.csv", recipe=recipe(**FORECAST), validate_only=True)
    then = file.stat()
    with file.open("r+b") as same:
        same.write(csv(series(load=(5, "x"))))
    os.utime(file, ns=(then.st_atime_ns, then.st_mtime_ns))  # nothing shows that it has changed
    made = jobs.create(uri="seen.csv", recipe=recipe(**FORECAST, max_steps=30))
    assert made.state == training_pb2.JOB_STATE_QUEUED
    assert refused(jobs, uri="seen.csv", recipe=recipe(**FORECAST, test_share=0.2)).metadata == {
        "row": "5",
        "column": "load",
    }
    os.utime(file)
    assert refused(jobs, uri="seen.csv", recipe=recipe(**FORECAST)).metadata["row"] == "5"


def test_large_data_is_left_to_the_job(jobs: Training, roots: Path) -> None:
    with (roots / "large.txt").open("wb") as file:
        file.write(b"\xff")
        file.truncate(MOST_BYTES + 1)
    checked = jobs.create(uri="large.txt", validate_only=True)
    assert "it has 33,554,433 bytes, more than the 33,554,432" in checked.state_message
    made = jobs.create(uri="large.txt")
    assert (made.state, made.state_message) == (training_pb2.JOB_STATE_QUEUED, "")


def test_data_that_takes_long_is_left_to_the_job(tmp_path: Path) -> None:
    (tmp_path / "roots").mkdir()
    (tmp_path / "roots" / "a.parquet").write_bytes(b"no Parquet")
    folder = DataFolder(tmp_path / "data", (tmp_path / "roots",))
    given = decode_recipe(recipe(**FORECAST)).to_dict()
    job = JobRecord(
        id="a", home=folder.home, dataset="", uri="a.parquet", format="parquet", recipe=given
    )
    said = asyncio.run(Checks(folder, share=Share(), seconds=0).look(job))
    assert "took more than 0 seconds" in said
    assert not list((folder.root / "scratch").iterdir())
    with pytest.raises(CarouselError, match="is not parquet"):
        asyncio.run(Checks(folder, share=Share(), seconds=PATIENCE).look(job))


def test_others_are_answered_while_data_is_looked_at(jobs: Training, roots: Path) -> None:
    (roots / "slow.parquet").write_bytes(parquet(series()))
    wanted = training_pb2.Job(uri="slow.parquet", recipe=recipe(**FORECAST))
    looking = jobs.stub.CreateJob.future(pb.CreateJobRequest(job=wanted, validate_only=True))
    answered = 0
    while not looking.done():
        jobs.stub.ListJobs(pb.ListJobsRequest())
        answered += not looking.done()
    assert looking.result().state == training_pb2.JOB_STATE_QUEUED
    assert answered
