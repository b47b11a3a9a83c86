"""What tests of training say often: uploads, small jobs, and waiting for what they do."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from sqlalchemy import update

from carousel.server.training.database import Database
from carousel.server.training.records import JobRecord
from carousel.v1 import dataset_pb2, training_pb2
from carousel.v1 import training_service_pb2 as pb
from carousel.v1.training_service_pb2_grpc import TrainingServiceStub
from tests.processes import PATIENCE

PIECE = 4096
FOX = "the quick brown fox jumps over the lazy dog. " * 400
ENDED = (
    training_pb2.JOB_STATE_SUCCEEDED,
    training_pb2.JOB_STATE_FAILED,
    training_pb2.JOB_STATE_CANCELLED,
)


def pieces(
    data: bytes, *, name: str, id: str = "", offset: int = 0, sha256: bytes = b"", spoil: int = -1
) -> Iterator[pb.UploadDatasetRequest]:
    """An upload; the piece of number `spoil` is not what its checksum says."""
    digest = sha256 or hashlib.sha256(data).digest()
    yield pb.UploadDatasetRequest(
        header=pb.DatasetHeader(
            dataset_id=id, file_name=name, size_bytes=len(data), sha256=digest, offset=offset
        )
    )
    for number, begin in enumerate(range(offset, len(data), PIECE)):
        part = data[begin : begin + PIECE]
        crc32 = zlib.crc32(part) ^ (number == spoil)
        yield pb.UploadDatasetRequest(piece=pb.DatasetPiece(data=part, crc32=crc32))


def recipe(**fields: Any) -> training_pb2.Recipe:
    """A tiny character model, learned in a moment."""
    small: dict[str, Any] = {
        "language_model": training_pb2.LanguageModelTask(),
        "network": training_pb2.NetworkShape(layers=1, hidden_size=8, embedding_size=4),
        "max_steps": 20,
        "batch_size": 4,
        "window": 8,
        "evaluate_every": 10,
    }
    if any(f in fields for f in ("forecast", "classify", "tag")):
        del small["language_model"]
    return training_pb2.Recipe(**{**small, **fields})


class Training:
    """The stub, and the requests that tests make most."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.stub = TrainingServiceStub(channel)

    def upload(self, data: bytes | str, **header: Any) -> dataset_pb2.Dataset:
        data = data.encode() if isinstance(data, str) else data
        return self.stub.UploadDataset(pieces(data, **header), timeout=PATIENCE)

    def dataset(self, id: str) -> dataset_pb2.Dataset:
        return self.stub.GetDataset(pb.GetDatasetRequest(name=f"datasets/{id}"))

    def create(
        self,
        id: str = "",
        *,
        dataset: str = "fox",
        validate_only: bool = False,
        request_id: str = "",
        **job: Any,
    ) -> training_pb2.Job:
        source = {} if "uri" in job else {"dataset": f"datasets/{dataset}"}
        wanted = training_pb2.Job(**{"recipe": recipe(), **source, **job})
        return self.stub.CreateJob(
            pb.CreateJobRequest(
                job_id=id, job=wanted, validate_only=validate_only, request_id=request_id
            )
        )

    def get(self, id: str) -> training_pb2.Job:
        return self.stub.GetJob(pb.GetJobRequest(name=f"jobs/{id}"))

    def cancel(self, id: str) -> training_pb2.Job:
        return self.stub.CancelJob(pb.CancelJobRequest(name=f"jobs/{id}"))

    def resume(self, id: str, **fields: Any) -> training_pb2.Job:
        return self.stub.ResumeJob(pb.ResumeJobRequest(name=f"jobs/{id}", **fields))

    def watch(
        self, id: str, after: int = 0, *, seconds: float = PATIENCE
    ) -> Iterator[training_pb2.JobEvent]:
        """Events, heartbeats left out."""
        request = pb.WatchJobRequest(name=f"jobs/{id}", after_sequence=after)
        for response in self.stub.WatchJob(request, timeout=seconds):
            if response.HasField("event"):
                yield response.event

    def until(self, id: str, kind: str, *, after: int = 0) -> training_pb2.JobEvent:
        """The first event of a kind: progress, checkpoint, ..."""
        return next(event for event in self.watch(id, after) if event.WhichOneof("event") == kind)

    def finish(self, id: str) -> training_pb2.Job:
        """The job when it has ended."""
        for _ in self.watch(id):
            pass
        return self.get(id)


def time_passes(database: Database) -> None:
    """Every lease has run out: who held one and does not live to renew it is taken for dead."""
    with database.begin() as session:
        session.execute(update(JobRecord).values(lease_until=0.0))
    database.close()


def states(events: Sequence[training_pb2.JobEvent]) -> list[str]:
    """The states that a job went through, in short."""
    return [
        training_pb2.JobState.Name(event.state).removeprefix("JOB_STATE_").lower()
        for event in events
        if event.WhichOneof("event") == "state"
    ]
