"""Jobs as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from carousel.client import _jobs_progress, _training_recipe
from carousel.client._jobs_progress import Evaluation, JobState, Progress
from carousel.client._times import to_datetime
from carousel.client._training_recipe import Recipe
from carousel.errors import Aborted
from carousel.v1 import training_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """When a result becomes a version: its test loss must beat the alias's by `margin`."""

    model: str = ""
    alias: str = ""
    margin: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training run.

    Of `dataset` and `uri` one is empty. `state_message` says why it failed or was not promoted,
    `version` is the promoted one, `evaluation` is of the best weights on the test part.
    `start_time` and `end_time` are None before they come. `tenant` is whose it is.
    """

    name: str
    dataset: str
    uri: str
    recipe: Recipe
    promotion: Promotion
    workers: int
    priority: int
    state: JobState
    state_message: str
    progress: Progress | None
    evaluation: Evaluation | None
    version: str
    create_time: datetime
    start_time: datetime | None
    end_time: datetime | None
    attempts: int
    checkpoint_step: int
    parameters: int
    tenant: str = ""

    @property
    def id(self) -> str:
        return self.name.removeprefix("jobs/")


class JobFailed(Aborted):
    """Raised by `wait` for a job that failed or was cancelled; `job` is how it ended."""

    reason = "JOB_FAILED"

    def __init__(self, job: Job) -> None:
        why = f": {job.state_message}" if job.state_message else ""
        super().__init__(
            f"{job.name} {'was ' * (job.state is JobState.CANCELLED)}{job.state} after "
            f"{job.checkpoint_step} updates{why}",
            metadata={"job": job.name, "state": str(job.state)},
        )
        self.job = job


def job(message: pb.Job) -> Job:
    promotion = message.promotion
    return Job(
        name=message.name,
        dataset=message.dataset,
        uri=message.uri,
        recipe=_training_recipe.from_message(message.recipe),
        promotion=Promotion(
            model=promotion.model.removeprefix("models/"),
            alias=promotion.alias,
            margin=promotion.margin if promotion.HasField("margin") else None,
        ),
        workers=message.workers,
        priority=message.priority,
        state=_jobs_progress.state(message.state),
        state_message=message.state_message,
        progress=_jobs_progress.progress(message.progress)
        if message.HasField("progress")
        else None,
        evaluation=_jobs_progress.evaluation(message.evaluation)
        if message.HasField("evaluation")
        else None,
        version=message.version,
        create_time=to_datetime(message.create_time),
        start_time=_moment(message.start_time),
        end_time=_moment(message.end_time),
        attempts=message.attempts,
        checkpoint_step=message.checkpoint_step,
        parameters=message.parameters,
        tenant=message.tenant,
    )


def _moment(stamp: Timestamp) -> datetime | None:
    return to_datetime(stamp) if stamp.seconds or stamp.nanos else None
