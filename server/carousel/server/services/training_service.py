"""TrainingService: decode, call the records or the store, encode."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from google.protobuf import empty_pb2

from carousel.errors import (
    CarouselError,
    CheckpointNotFound,
    DatasetInvalid,
    ImportRefused,
    InvalidField,
    ServerDraining,
    WeightsInvalid,
)
from carousel.server import names
from carousel.server.access.caller import need
from carousel.server.fair_turn import FairTurn
from carousel.server.request_ids import MAX_LENGTH
from carousel.server.rpc import Context
from carousel.server.tenants import tenant_of
from carousel.server.training.bells import wait
from carousel.server.training.child import run_child
from carousel.server.training.dataset_uploads import Requests
from carousel.server.training.job_folder import JobFolder
from carousel.server.training.job_requests import decode_job, decode_states
from carousel.server.training.messages import (
    encode_checkpoint,
    encode_dataset,
    encode_event,
    encode_flow,
    encode_job,
)
from carousel.server.training.office import Office
from carousel.server.training.records import ENDED, JobRecord, Object
from carousel.server.uploads import read_rest, to_end
from carousel.v1 import dataset_pb2, training_pb2
from carousel.v1 import training_service_pb2 as pb

HEARTBEAT_SECONDS = 10.0
# Where another server runs the job, nobody rings here.
LOOK_SECONDS = 1.0
EVENTS_AT_ONCE = 256
MAX_WINDOW = 4096
MAX_MICROSECONDS = 2**53  # of times as floats
DIAGNOSE_SECONDS = 120.0


class TrainingService:
    """Datasets and jobs."""

    def __init__(self, office: Office, *, heartbeat: float = HEARTBEAT_SECONDS) -> None:
        self._office = office
        self._jobs = office.jobs
        self._datasets = office.datasets
        self.heartbeat = heartbeat  # seconds of silence in a watch
        self._diagnosing = FairTurn()

    async def UploadDataset(self, requests: Requests, context: Context) -> dataset_pb2.Dataset:
        try:
            record = await self._office.uploads.receive(requests, tenant_of(context))
        except CarouselError:
            await read_rest(requests)
            raise
        await read_rest(requests)  # there is more when the dataset was there already
        return encode_dataset(record, 0, columns=True)

    async def GetDataset(
        self, request: pb.GetDatasetRequest, context: Context
    ) -> dataset_pb2.Dataset:
        dataset = names.key_of(tenant_of(context), names.dataset_id(request.name))
        record, jobs = await asyncio.to_thread(self._datasets.get, dataset)
        return encode_dataset(record, jobs, columns=True)

    async def ListDatasets(
        self, request: pb.ListDatasetsRequest, context: Context
    ) -> pb.ListDatasetsResponse:
        after, size = names.page_key(request.page_token), names.page_size(request.page_size)
        tenant = tenant_of(context)
        after = names.key_of(tenant, after) if after else ""
        found, more = await asyncio.to_thread(self._datasets.page, tenant, after, size)
        response = pb.ListDatasetsResponse(
            datasets=[encode_dataset(record, jobs, columns=False) for record, jobs in found]
        )
        if more:
            last = found[-1][0].id
            response.next_page_token = names.page_token(names.id_of(last) if tenant else last)
        return response

    async def DeleteDataset(
        self, request: pb.DeleteDatasetRequest, context: Context
    ) -> empty_pb2.Empty:
        dataset = names.key_of(tenant_of(context), names.dataset_id(request.name))
        await to_end(lambda: self._datasets.delete(dataset), final=True)
        return empty_pb2.Empty()

    async def CreateJob(self, request: pb.CreateJobRequest, context: Context) -> training_pb2.Job:
        if request.job.promotion.model:
            need("models")  # from its creator: nobody calls when the job ends
        new = decode_job(request, tenant_of(context))
        if len(request.request_id) > MAX_LENGTH:
            raise InvalidField(
                f"request_id must have at most {MAX_LENGTH} characters, got "
                f"{len(request.request_id)}",
                field="request_id",
            )
        tenant = tenant_of(context)
        # No tenant has a slash in it, so that nobody's own id can look like another's.
        request_id = f"{tenant}/{request.request_id}" if request.request_id else ""
        digest = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()

        def create(*, validate_only: bool) -> JobRecord:
            return self._jobs.create(
                new, validate_only=validate_only, request_id=request_id, digest=digest
            )

        if not request.validate_only:
            made = await asyncio.to_thread(self._jobs.made, request_id, digest)
            if made is not None:
                return encode_job(made)
        # First whatever is known at once; nothing is kept before the data was looked at.
        job = await asyncio.to_thread(lambda: create(validate_only=True))
        unchecked = await self._office.checks.look(job)
        if request.validate_only:
            job.message = unchecked
            return encode_job(job)
        return self._changed(await to_end(lambda: create(validate_only=False), final=True))

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> training_pb2.Job:
        job = _job(request.name, context)
        return encode_job(await asyncio.to_thread(self._jobs.get, job))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        before = names.page_number(request.page_token, most=MAX_MICROSECONDS)
        size, tenant = names.page_size(request.page_size), tenant_of(context)
        states = decode_states(request.states)
        model = names.model_id(request.model, field="model") if request.model else ""
        model = names.key_of(tenant, model) if model else ""
        found, rest = await asyncio.to_thread(
            lambda: self._jobs.page(
                tenant=tenant, before=before, size=size, states=states, model=model
            )
        )
        return pb.ListJobsResponse(
            jobs=[encode_job(job) for job in found],
            next_page_token=names.page_token(str(rest)) if rest else "",
        )

    async def CancelJob(self, request: pb.CancelJobRequest, context: Context) -> training_pb2.Job:
        job = _job(request.name, context)
        return self._changed(await to_end(lambda: self._jobs.cancel(job), final=True))

    async def ResumeJob(self, request: pb.ResumeJobRequest, context: Context) -> training_pb2.Job:
        max_steps = request.max_steps if request.HasField("max_steps") else None
        job = _job(request.name, context)
        return self._changed(await to_end(lambda: self._jobs.resume(job, max_steps), final=True))

    async def DeleteJob(self, request: pb.DeleteJobRequest, context: Context) -> empty_pb2.Empty:
        job = _job(request.name, context)
        await to_end(lambda: self._jobs.delete(job), final=True)
        self._office.bells.ring(job)
        return empty_pb2.Empty()

    async def WatchJob(
        self, request: pb.WatchJobRequest, context: Context
    ) -> AsyncIterator[pb.WatchJobResponse]:
        job, sequence = _job(request.name, context), request.after_sequence
        clock = asyncio.get_running_loop().time
        silent_since = clock()
        while True:
            bell = self._office.bells.listen(job)  # before looking
            record, events = await asyncio.to_thread(
                self._jobs.events, job, sequence, EVENTS_AT_ONCE
            )
            if sequence > record.last_sequence:
                raise InvalidField(
                    f"after_sequence must be at most {record.last_sequence}, the last that there "
                    f"is, got {sequence}",
                    field="after_sequence",
                )
            for event in events:
                yield pb.WatchJobResponse(event=encode_event(record, event))
                sequence, silent_since = event.sequence, clock()
            if events:
                continue
            if record.state in ENDED:
                return
            if self._office.closing:
                raise ServerDraining("the server is shutting down; watch on", retry_after=1.0)
            if clock() - silent_since >= self.heartbeat:
                yield pb.WatchJobResponse()
                silent_since = clock()
            await wait(bell, min(LOOK_SECONDS, self.heartbeat))

    async def ListCheckpoints(
        self, request: pb.ListCheckpointsRequest, context: Context
    ) -> pb.ListCheckpointsResponse:
        name = _job(request.parent, context, field="parent")
        size = names.page_size(request.page_size)
        after = names.page_number(request.page_token)
        job = await asyncio.to_thread(self._jobs.get, name)
        left = [c for c in job.checkpoints if c["step"] > after]
        return pb.ListCheckpointsResponse(
            checkpoints=[encode_checkpoint(job.id, checkpoint) for checkpoint in left[:size]],
            next_page_token=(
                names.page_token(str(left[size - 1]["step"])) if len(left) > size else ""
            ),
        )

    async def PromoteCheckpoint(
        self, request: pb.PromoteCheckpointRequest, context: Context
    ) -> pb.PromoteCheckpointResponse:
        job, checkpoint, folder = await self._checkpoint(request.name, context)
        if not (request.model or job.model):
            raise InvalidField("model must be given: the job promotes to none", field="model")
        model = job.model
        if request.model:
            owner = names.owner_of(job.id)
            model = names.key_of(owner, names.model_id(request.model, field="model"))
        alias = names.check_alias(request.alias) if request.alias else ""
        job_folder = JobFolder(self._office.folder.job(job.number))
        await asyncio.to_thread(job_folder.add_baseline, checkpoint["step"])
        promotion = self._office.promotion
        async with promotion.turn():
            with reading(folder, request.name):
                version = await promotion.add(folder, model, alias, announce=lambda _: None)
        return pb.PromoteCheckpointResponse(version=version.name)

    async def DiagnoseGradients(
        self, request: pb.DiagnoseGradientsRequest, context: Context
    ) -> pb.DiagnoseGradientsResponse:
        if request.window > MAX_WINDOW:
            raise InvalidField(
                f"window must be at most {MAX_WINDOW:,}, got {request.window:,}", field="window"
            )
        job, checkpoint, folder = await self._checkpoint(request.name, context)
        arguments = str(self._office.folder.job(job.number)), str(folder), str(request.window)
        async with self._diagnosing.of(tenant_of(context)):
            left = context.time_remaining()
            seconds = DIAGNOSE_SECONDS if left is None else min(left, DIAGNOSE_SECONDS)
            try:  # to its end, since a process that nobody waits for would run beside the next
                with reading(folder, request.name):
                    flow = await to_end(
                        lambda: run_child(
                            "diagnose", *arguments, share=self._office.share, seconds=seconds
                        )
                    )
            except DatasetInvalid as error:
                raise InvalidField(
                    f"the gradients can't be looked at: {error.message}", field="window"
                ) from error
        flow["step"] = checkpoint["step"]
        return pb.DiagnoseGradientsResponse(gradients=encode_flow(flow))

    def _changed(self, job: JobRecord) -> training_pb2.Job:
        """Tell whom it concerns."""
        self._office.bells.ring(job.id)
        self._office.supervisor.wake()
        return encode_job(job)

    async def _checkpoint(self, name: str, context: Context) -> tuple[JobRecord, Object, Path]:
        """A checkpoint that is here. Raises InvalidField, JobNotFound, CheckpointNotFound."""
        job_id, step = names.job_checkpoint(name)
        key = names.key_of(tenant_of(context), job_id)
        job = await asyncio.to_thread(self._jobs.get, key)
        found = [c for c in job.checkpoints if (c["best"] if step is None else c["step"] == step)]
        if not found:
            there = ", ".join(str(c["step"]) for c in job.checkpoints) or "none"
            raise CheckpointNotFound(f"there is no {name}; there are {there}", field="name")
        folder = JobFolder(self._office.folder.job(job.number)).checkpoint(found[0]["step"])
        if job.home != self._office.folder.home or not folder.is_dir():
            raise CheckpointNotFound(f"the files of {name} are not on this server", field="name")
        return job, found[0], folder


@contextlib.contextmanager
def reading(checkpoint: Path, name: str) -> Iterator[None]:
    """Where retention removed the checkpoint meanwhile, that is why it could not be read.

    Raises CheckpointNotFound.
    """
    try:
        yield
    except (DatasetInvalid, ImportRefused, WeightsInvalid) as error:
        if checkpoint.is_dir():
            raise
        raise CheckpointNotFound(
            f"{name} was removed while it was read: its job keeps the newest and the best",
            field="name",
        ) from error


def _job(name: str, context: Context, *, field: str = "name") -> str:
    """The key of the caller's job of this name. Raises InvalidField."""
    return names.key_of(tenant_of(context), names.job_id(name, field=field))
