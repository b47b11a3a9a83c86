"""Jobs: made, followed, stopped, resumed, promoted; the same with both clients."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from carousel.client import (
    AsyncClient,
    Checkpoint,
    Client,
    Dataset,
    Evaluation,
    Forecast,
    GradientFlow,
    Job,
    JobEvent,
    JobFailed,
    JobState,
    NetworkShape,
    Progress,
    Recipe,
    Tag,
    VersionState,
)
from carousel.errors import (
    DatasetInvalid,
    DeadlineExceeded,
    InvalidField,
    JobNotFound,
    JobNotResumable,
)
from tests.client.relay import Relay
from tests.conftest import RunningServer
from tests.processes import PATIENCE, until

WINDOW, BATCH, STEPS = 12, 4, 30
RECIPE = Recipe(
    task=Forecast("load", features="hour", horizon=2, season=3),
    network=NetworkShape(cell="gru", layers=1, hidden_size=8),
    window=WINDOW,
    batch_size=BATCH,
    max_steps=STEPS,
    evaluate_every=10,
)

METRIC = "carousel_training"

Done = tuple[Job, list[JobEvent]]


@pytest.fixture(scope="module")
def done(trainer: RunningServer, readings: Dataset) -> Done:
    """A job that has succeeded, and its events."""
    events: list[JobEvent] = []
    with Client(trainer.target, timeout=PATIENCE) as client:
        job = client.jobs.create(
            recipe=RECIPE, dataset="readings", model="load", alias="stable", id="first"
        )
        assert job.name == "jobs/first"
        return client.jobs.wait("first", on_event=events.append, timeout=PATIENCE), events


def test_a_job_makes_a_version_that_serves(teacher: Client, done: Done) -> None:
    job, _ = done
    assert (job.state, job.state_message) == (JobState.SUCCEEDED, "")
    assert job.version == "models/load/versions/1"
    assert job.evaluation is not None
    assert job.evaluation.split == "test"
    assert {"mae", "naive_mae", "mase"} <= set(job.evaluation.metrics)
    assert job.progress is not None
    assert (job.progress.step, job.progress.max_steps) == (STEPS, STEPS)
    assert job.start_time is not None
    assert job.end_time is not None
    assert job.create_time <= job.start_time <= job.end_time
    version = teacher.get_version("load@stable")
    assert (version.name, version.state) == (job.version, VersionState.READY)
    assert version.parameters == job.parameters
    [forecast] = teacher.predict("load", [np.zeros((5, 2), np.float32)])
    assert forecast.shape == (5, 2)


def test_what_a_job_learned_is_counted_and_its_gauges_go_with_it(
    teacher: Client, done: Done
) -> None:
    until(lambda: teacher.statistics().value(f"{METRIC}_jobs", state="succeeded") >= 1)
    statistics = teacher.statistics()
    reports = [event.what for event in done[1] if isinstance(event.what, Progress)]
    for name, wanted in (
        ("steps_total", STEPS),
        ("tokens_total", STEPS * BATCH * WINDOW),
        ("step_seconds_count", len({report.step for report in reports})),
        ("nonfinite_steps_total", 0),
    ):
        assert statistics.value(f"{METRIC}_{name}", model="load") == wanted, name
    assert statistics.value(f"{METRIC}_jobs_finished_total", state="succeeded") >= 1
    samples = [sample for family in statistics.families for sample in family.samples]
    assert not [one for one in samples if one.labels.get("training_job") == "first"]


def test_every_default_is_filled_in(done: Done) -> None:
    recipe = done[0].recipe
    assert (recipe.task, recipe.max_steps) == (
        Forecast("load", features="hour", horizon=2, season=3),
        STEPS,
    )
    assert (recipe.optimizer, recipe.schedule, recipe.clip_norm) == ("adamw", "cosine", 1.0)


def test_events_have_no_gaps_and_tell_everything(done: Done) -> None:
    job, events = done
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    kinds: dict[str, type] = {
        "state": JobState,
        "progress": Progress,
        "evaluation": Evaluation,
        "gradients": GradientFlow,
        "checkpoint": Checkpoint,
    }
    assert {event.kind for event in events} >= set(kinds)
    for event in events:
        if event.kind in kinds:
            assert isinstance(event.what, kinds[event.kind])
    states = [event.what for event in events if event.kind == "state"]
    assert states == [JobState.QUEUED, JobState.PREPARING, JobState.RUNNING, JobState.SUCCEEDED]
    assert job.evaluation in [event.what for event in events]


def test_a_watch_goes_on_after_any_event(teacher: Client, done: Done) -> None:
    job, events = done
    for after in (0, 1, len(events) - 1, len(events)):
        assert list(teacher.jobs.watch(job.name, after=after)) == events[after:]


def test_a_broken_watch_tells_every_event_once(trainer: RunningServer, done: Done) -> None:
    job, events = done
    relay = Relay(trainer.target)
    lost = 0

    def cut_twice(total: int) -> None:
        nonlocal lost
        if lost < 2 and total > 1000 * (lost + 1):
            lost += 1
            relay.cut_here()

    relay.on_answer = cut_twice
    try:
        with Client(relay.target, timeout=PATIENCE) as client:
            assert list(client.jobs.watch(job.name)) == events

        async def main() -> list[JobEvent]:
            async with AsyncClient(relay.target, timeout=PATIENCE) as client:
                return [event async for event in client.jobs.watch(job.name)]

        lost = 0
        assert asyncio.run(main()) == events
    finally:
        relay.close()
    assert lost == 2
    assert relay.connections > 4


def test_data_that_cannot_be_learned_from_is_refused_by_both(
    trainer: RunningServer, teacher: Client
) -> None:
    rows = [f"{hour},{hour % 7}" for hour in range(400)]
    rows[299] = "299,"
    teacher.datasets.upload("\n".join(["hour,load", *rows]).encode(), id="gap", format="csv")
    wanted = Recipe(task=Tag(label_column="load"), max_steps=2)

    async def refused() -> DatasetInvalid:
        async with AsyncClient(trainer.target, timeout=PATIENCE) as client:
            with pytest.raises(DatasetInvalid) as failed:
                await client.jobs.create(recipe=wanted, dataset="gap", validate_only=True)
        return failed.value

    with pytest.raises(DatasetInvalid) as failed:
        teacher.jobs.create(recipe=wanted, dataset="gap")
    for error in (failed.value, asyncio.run(refused())):
        assert error.message == "row 300, column 'load': a value is missing"
        assert (error.field, error.metadata) == ("job.dataset", {"row": "300", "column": "load"})


def test_a_checkpoint_becomes_a_version(teacher: Client, done: Done) -> None:
    job, _ = done
    found = list(teacher.jobs.checkpoints(job.id))
    assert found[-1].step == STEPS
    assert [one.best for one in found].count(True) == 1
    version = teacher.jobs.promote(job.id, found[-1].step, model="copy", alias="tried")
    assert version == "models/copy/versions/1"
    assert teacher.get_model("copy").aliases == {"tried": 1}
    assert teacher.jobs.promote(job.id, "best", model="copy") == "models/copy/versions/2"
    with pytest.raises(InvalidField, match="must be a step such as 1200, or best, got 'last'"):
        teacher.jobs.promote(job.id, "last")


def test_the_gradients_of_a_checkpoint_go_back_over_the_window(teacher: Client, done: Done) -> None:
    flow = teacher.jobs.diagnose(done[0].id, "best", window=7)
    [layer] = flow.layers
    assert len(layer.hidden_norms) in (7, 8)
    assert 1 <= layer.horizon <= 8
    assert flow.verdict


def test_jobs_are_found_by_state_and_model(teacher: Client, done: Done) -> None:
    def ids(**wanted: Any) -> list[str]:
        return [job.id for job in teacher.jobs.list(**wanted)]

    assert "first" in ids()
    assert "first" in ids(states=[JobState.SUCCEEDED], model="load")
    assert ids(states=["succeeded"], model="other") == []
    assert "first" not in ids(states=["queued", "failed"])
    with pytest.raises(InvalidField, match="states must be queued, preparing"):
        ids(states=["lost"])


def test_what_can_never_run_is_refused(teacher: Client, readings: Dataset) -> None:
    made = teacher.jobs.create(recipe=RECIPE, dataset="readings", validate_only=True)
    with pytest.raises(JobNotFound):
        teacher.jobs.get(made.name)
    wrong = Recipe(task=Forecast("lode"))
    with pytest.raises((DatasetInvalid, InvalidField), match="lode"):
        teacher.jobs.create(recipe=wrong, dataset="readings")
    with pytest.raises(InvalidField, match="either dataset or uri"):
        teacher.jobs.create(recipe=RECIPE)
    with pytest.raises(InvalidField, match="recipe has no 'steps'"):
        teacher.jobs.create(recipe={"task": {"type": "tag"}, "steps": 3}, dataset="readings")


def test_a_cancelled_job_goes_on_from_its_checkpoint(
    trainer: RunningServer, teacher: Client, readings: Dataset
) -> None:
    given: dict[str, Any] = {
        "task": {"type": "forecast", "targets": "load"},
        "network": {"layers": 1, "hidden_size": 4},
        "window": WINDOW,
        "batch_size": 4,
        "max_steps": 10_000_000,
    }
    job = teacher.jobs.create(recipe=given, dataset="readings", request_id="twice")
    assert (
        teacher.jobs.create(recipe=given, dataset="readings", request_id="twice").name == job.name
    )
    for event in teacher.jobs.watch(job.name, timeout=PATIENCE):
        if isinstance(event.what, Progress):
            break
    with pytest.raises(DeadlineExceeded):
        teacher.jobs.wait(job.name, timeout=0.2)
    with pytest.raises(JobNotResumable):
        teacher.jobs.resume(job.name)
    teacher.jobs.cancel(job.name)
    with pytest.raises(JobFailed, match="was cancelled after") as caught:
        teacher.jobs.wait(job.name, timeout=PATIENCE)
    assert caught.value.job.state is JobState.CANCELLED
    stopped = caught.value.job.checkpoint_step
    assert stopped > 0

    async def go_on() -> tuple[Job, list[JobEvent]]:
        events: list[JobEvent] = []
        async with AsyncClient(trainer.target, timeout=PATIENCE) as client:
            await client.jobs.resume(job.name, max_steps=stopped + 5)
            ended = await client.jobs.wait(job.name, on_event=events.append, timeout=PATIENCE)
            await client.jobs.delete(job.name)
            return ended, events

    ended, events = asyncio.run(go_on())
    assert ended.state is JobState.SUCCEEDED
    assert ended.version == ""
    assert ended.progress is not None
    assert ended.progress.step == stopped + 5
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    with pytest.raises(JobNotFound):
        teacher.jobs.get(job.name)
