"""What a request for a job asks for, decoded and checked as far as that goes without records."""

from __future__ import annotations

import math
from collections.abc import Sequence

from carousel.errors import InvalidField
from carousel.server import names
from carousel.server.training.jobs import NewJob
from carousel.server.training.recipes import decode_recipe
from carousel.v1 import training_pb2
from carousel.v1 import training_service_pb2 as pb

MAX_WORKERS = 64
MAX_PRIORITY = 100
MAX_STATES = 64


def decode_job(request: pb.CreateJobRequest, tenant: str) -> NewJob:
    """Raises InvalidField."""
    job = request.job
    if bool(job.dataset) == bool(job.uri):
        raise InvalidField("job must have either a dataset or a uri", field="job.dataset")
    if job.workers > MAX_WORKERS:
        raise InvalidField(
            f"job.workers must be at most {MAX_WORKERS}, got {job.workers}", field="job.workers"
        )
    if abs(job.priority) > MAX_PRIORITY:
        raise InvalidField(
            f"job.priority must be between -{MAX_PRIORITY} and {MAX_PRIORITY}, got {job.priority}",
            field="job.priority",
        )
    model, alias, margin = _decode_promotion(job.promotion)
    dataset = names.dataset_id(job.dataset, field="job.dataset") if job.dataset else ""
    return NewJob(
        tenant=tenant,
        id=names.check_id(request.job_id, field="job_id") if request.job_id else "",
        dataset=names.key_of(tenant, dataset) if dataset else "",
        uri=job.uri,
        recipe=decode_recipe(job.recipe).to_dict(),
        model=names.key_of(tenant, model) if model else "",
        alias=alias,
        margin=margin,
        workers=job.workers or 1,
        priority=job.priority,
    )


def decode_states(states: Sequence[training_pb2.JobState.ValueType]) -> list[str]:
    """States as in records. Raises InvalidField."""
    if len(states) > MAX_STATES:
        raise InvalidField(
            f"states must be at most {MAX_STATES}, got {len(states):,}", field="states"
        )
    words = []
    for state in states:
        name = training_pb2.JobState.keys()[state] if 0 < state <= 7 else ""
        if not name:
            raise InvalidField(f"each of states must be a JobState, got {state}", field="states")
        words.append(name.removeprefix("JOB_STATE_").lower())
    return words


def _decode_promotion(promotion: training_pb2.Promotion) -> tuple[str, str, float | None]:
    """Model, alias and margin."""
    path = "job.promotion"
    margin = promotion.margin if promotion.HasField("margin") else None
    if not promotion.model:
        if promotion.alias or margin is not None:
            raise InvalidField(
                f"{path}.model must be given where there is an alias or a margin",
                field=f"{path}.model",
            )
        return "", "", None
    model = names.model_id(promotion.model, field=f"{path}.model")
    if promotion.alias:
        names.check_alias(promotion.alias, field=f"{path}.alias")
    if margin is not None and not (math.isfinite(margin) and 0 <= margin < 1):
        raise InvalidField(
            f"{path}.margin must be at least 0 and below 1, got {margin}", field=f"{path}.margin"
        )
    if margin is not None and not promotion.alias:
        raise InvalidField(
            f"{path}.alias must be given where there is a margin: its version is what to beat",
            field=f"{path}.alias",
        )
    return model, promotion.alias, margin
