"""How datasets, jobs and their events look on the wire."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from carousel.server.names import id_of, model_name, owner_of, version_name
from carousel.server.training.recipes import encode_recipe
from carousel.server.training.records import DatasetRecord, EventRecord, JobRecord, Object
from carousel.v1 import dataset_pb2
from carousel.v1 import training_pb2 as pb

# What their processes write has the names of the proto's fields.
_PROGRESS = [f.name for f in pb.Progress.DESCRIPTOR.fields if f.name != "remaining_time"]
_FLOW = ("step", "vanishing", "exploding", "clipped_ratio", "verdict")


def encode_dataset(record: DatasetRecord, jobs: int, *, columns: bool) -> dataset_pb2.Dataset:
    response = dataset_pb2.Dataset(
        name=f"datasets/{id_of(record.id)}",
        tenant=owner_of(record.id),
        state=dataset_pb2.DatasetState.Value(f"DATASET_STATE_{record.state.upper()}"),
        format=dataset_pb2.DatasetFormat.Value(f"DATASET_FORMAT_{record.format.upper()}"),
        file_name=record.file_name,
        size_bytes=record.size_bytes,
        sha256=record.sha256,
        received_bytes=record.received_bytes,
        rows=record.rows,
        create_time=_time(record.created),
        jobs=jobs,
        text=None if record.text is None else dataset_pb2.TextStatistics(**record.text),
    )
    if columns:
        response.columns.extend(_column(column) for column in record.columns)
    return response


def encode_job(job: JobRecord) -> pb.Job:
    response = pb.Job(
        name=f"jobs/{id_of(job.id)}",
        tenant=owner_of(job.id),
        dataset=f"datasets/{id_of(job.dataset)}" if job.dataset else "",
        uri=job.uri,
        recipe=encode_recipe(job.recipe),
        promotion=pb.Promotion(
            model=model_name(job.model) if job.model else "", alias=job.alias, margin=job.margin
        ),
        workers=job.workers,
        priority=job.priority,
        state=job_state(job.state),
        state_message=job.message,
        version=version_name(job.model, job.version) if job.promoted else "",
        create_time=_time(job.created),
        attempts=job.attempts,
        checkpoint_step=job.checkpoints[-1]["step"] if job.checkpoints else 0,
        parameters=job.parameters,
    )
    if job.progress is not None:
        response.progress.CopyFrom(_progress(job.progress))
    if job.evaluation is not None:
        response.evaluation.CopyFrom(_evaluation(job.evaluation))
    if job.started is not None:
        response.start_time.CopyFrom(_time(job.started))
    if job.ended is not None:
        response.end_time.CopyFrom(_time(job.ended))
    return response


def encode_event(job: JobRecord, record: EventRecord) -> pb.JobEvent:
    """An event; of a kind that only the server needs to know, without anything in it."""
    response = pb.JobEvent(
        sequence=record.sequence, event_time=_time(record.time), attempt=record.attempt
    )
    match record.type:
        case "state":
            response.state = job_state(record.body["state"])
        case "progress":
            response.progress.CopyFrom(_progress({**record.body, "max_steps": _max_steps(job)}))
        case "evaluation":
            response.evaluation.CopyFrom(_evaluation(record.body))
        case "gradients":
            response.gradients.CopyFrom(encode_flow(record.body))
        case "checkpoint":
            response.checkpoint.CopyFrom(encode_checkpoint(job.id, record.body))
        case "warning":
            response.warning = record.body["message"]
    return response


def encode_checkpoint(job: str, event: Object) -> pb.Checkpoint:
    return pb.Checkpoint(
        name=f"jobs/{id_of(job)}/checkpoints/{event['step']}",
        step=event["step"],
        validation_loss=event["validation_loss"],
        best=event["best"],
        size_bytes=event["size_bytes"],
        create_time=_time(event["time"]),
    )


def encode_flow(flow: Object) -> pb.GradientFlow:
    return pb.GradientFlow(
        **{name: flow[name] for name in _FLOW},
        layers=[pb.LayerGradients(**layer) for layer in flow["layers"]],
    )


def job_state(state: str) -> pb.JobState.ValueType:
    return pb.JobState.Value(f"JOB_STATE_{state.upper()}")


def _progress(progress: Object) -> pb.Progress:
    values = {name: _number(progress[name]) for name in _PROGRESS if name in progress}
    response = pb.Progress(**values)
    if (remaining := progress.get("remaining_seconds")) is not None:
        response.remaining_time.FromNanoseconds(round(remaining * 1e9))
    return response


def _evaluation(event: Object) -> pb.Evaluation:
    return pb.Evaluation(
        step=event["step"],
        split=event["split"],
        loss=_number(event["loss"]),
        metrics={name: _number(value) for name, value in event["metrics"].items()},
        best=event["best"],
    )


def _column(column: Object) -> dataset_pb2.Column:
    return dataset_pb2.Column(**{name: v for name, v in column.items() if v is not None})


def _max_steps(job: JobRecord) -> int:
    return int((job.progress or job.recipe)["max_steps"])


def _number(value: Any) -> Any:
    """JSON has no NaN: there it is null."""
    return float("nan") if value is None else value


def _time(seconds: float) -> Timestamp:
    time = Timestamp()
    time.FromNanoseconds(round(seconds * 1e6) * 1000)
    return time
