"""The calls of TrainingService."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf import empty_pb2
from google.protobuf.message import Message

from carousel.client import _datasets_values, _jobs_progress, _jobs_values
from carousel.client._call import Call, nothing
from carousel.client._datasets_values import Dataset
from carousel.client._jobs_progress import Checkpoint, GradientFlow
from carousel.client._jobs_values import Job
from carousel.client._names import checkpoint_name, dataset_name, job_name, parent_name
from carousel.client._training_messages import number
from carousel.client._training_recipe import Recipe, to_message
from carousel.errors import InvalidField
from carousel.v1 import dataset_pb2, training_pb2
from carousel.v1 import training_service_pb2 as pb

SLOW = 300.0
"""Seconds for what reads a dataset or weights."""

PAUSE = 1.0
"""Seconds before a watch is opened again that ended early, as when a server drains."""

_PAGE = 1000


def path(method: str) -> str:
    return f"carousel.v1.TrainingService/{method}"


def get_dataset(name: str) -> Call[Dataset]:
    request = pb.GetDatasetRequest(name=dataset_name(name))
    return Call(path("GetDataset"), request, dataset_pb2.Dataset, _datasets_values.dataset)


def list_datasets(page_token: str) -> Call[tuple[list[Dataset], str]]:
    request = pb.ListDatasetsRequest(page_size=_PAGE, page_token=page_token)
    return Call(path("ListDatasets"), request, pb.ListDatasetsResponse, _datasets)


def delete_dataset(name: str) -> Call[None]:
    request = pb.DeleteDatasetRequest(name=dataset_name(name))
    return Call(path("DeleteDataset"), request, empty_pb2.Empty, nothing)


def create_job(
    recipe: Recipe | Mapping[str, Any],
    *,
    dataset: str | None,
    uri: str | None,
    model: str | None,
    alias: str | None,
    margin: float | None,
    workers: int,
    priority: int,
    id: str | None,
    validate_only: bool,
    request_id: str | None,
) -> Call[Job]:
    if (dataset is None) == (uri is None):
        raise InvalidField(f"give either dataset or uri, got {dataset!r} and {uri!r}", field="job")
    try:
        promotion = training_pb2.Promotion(
            model=parent_name(model) if model else "", alias=alias or "", margin=margin
        )
        job = training_pb2.Job(
            dataset=dataset_name(dataset) if dataset is not None else "",
            uri=uri or "",
            recipe=to_message(Recipe.of(recipe)),
            promotion=promotion,
            workers=workers,
            priority=priority,
        )
    except (TypeError, ValueError) as error:  # what no field can hold
        raise InvalidField(f"the job's options are out of range: {error}", field="job") from error
    request = pb.CreateJobRequest(
        job_id=id or "",
        job=job,
        validate_only=validate_only,
        request_id=request_id or uuid.uuid4().hex,
    )
    return _job("CreateJob", request)


def get_job(name: str) -> Call[Job]:
    return _job("GetJob", pb.GetJobRequest(name=job_name(name)))


def list_jobs(
    page_token: str, *, states: Iterable[str], model: str | None
) -> Call[tuple[list[Job], str]]:
    described = training_pb2.JobState.DESCRIPTOR
    numbers: Any = [number(described, str(one), field="states") for one in states]
    request = pb.ListJobsRequest(
        page_size=_PAGE,
        page_token=page_token,
        states=numbers,
        model=parent_name(model) if model else "",
    )
    return Call(path("ListJobs"), request, pb.ListJobsResponse, _jobs)


def cancel_job(name: str) -> Call[Job]:
    return _job("CancelJob", pb.CancelJobRequest(name=job_name(name)))


def resume_job(name: str, *, max_steps: int | None) -> Call[Job]:
    return _job("ResumeJob", pb.ResumeJobRequest(name=job_name(name), max_steps=max_steps))


def delete_job(name: str) -> Call[None]:
    request = pb.DeleteJobRequest(name=job_name(name))
    return Call(path("DeleteJob"), request, empty_pb2.Empty, nothing)


def list_checkpoints(name: str, page_token: str) -> Call[tuple[list[Checkpoint], str]]:
    request = pb.ListCheckpointsRequest(
        parent=job_name(name), page_size=_PAGE, page_token=page_token
    )
    return Call(path("ListCheckpoints"), request, pb.ListCheckpointsResponse, _checkpoints)


def promote(name: str, checkpoint: int | str, *, model: str | None, alias: str | None) -> Call[str]:
    request = pb.PromoteCheckpointRequest(
        name=checkpoint_name(name, checkpoint),
        model=parent_name(model) if model else "",
        alias=alias or "",
    )
    reply = pb.PromoteCheckpointResponse
    return Call(path("PromoteCheckpoint"), request, reply, lambda m: str(m.version), SLOW)


def diagnose(name: str, checkpoint: int | str, *, window: int) -> Call[GradientFlow]:
    request = pb.DiagnoseGradientsRequest(name=checkpoint_name(name, checkpoint), window=window)
    return Call(
        path("DiagnoseGradients"),
        request,
        pb.DiagnoseGradientsResponse,
        lambda m: _jobs_progress.gradients(m.gradients),
        SLOW,
    )


def _job(method: str, request: Message) -> Call[Job]:
    return Call(path(method), request, training_pb2.Job, _jobs_values.job)


def _datasets(message: pb.ListDatasetsResponse) -> tuple[list[Dataset], str]:
    return [_datasets_values.dataset(one) for one in message.datasets], message.next_page_token


def _jobs(message: pb.ListJobsResponse) -> tuple[list[Job], str]:
    return [_jobs_values.job(one) for one in message.jobs], message.next_page_token


def _checkpoints(message: pb.ListCheckpointsResponse) -> tuple[list[Checkpoint], str]:
    found = [_jobs_progress.checkpoint(one) for one in message.checkpoints]
    return found, message.next_page_token
