"""Jobs as whoever asks for them sees them: made, found, listed, cancelled, resumed, deleted."""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from carousel.errors import (
    DatasetInvalid,
    DatasetNotFound,
    InvalidField,
    JobActive,
    JobExists,
    JobNotFound,
    JobNotResumable,
    QueueFull,
)
from carousel.model import ConfigError
from carousel.model.data import DataError, guess_format
from carousel.model.training.precision import check_precision
from carousel.server.names import dataset_name, job_name, key_of, owner_of
from carousel.server.quotas import UNLIMITED, Quotas
from carousel.server.training import events
from carousel.server.training.data_folder import DataFolder
from carousel.server.training.database import Database
from carousel.server.training.records import (
    ACTIVE,
    CANCELLED,
    CANCELLING,
    ENDED,
    FAILED,
    QUEUED,
    READY,
    UNFINISHED,
    DatasetRecord,
    EventRecord,
    JobRecord,
    RequestRecord,
)

# What a task must name of a table.
MUST_NAME = {"classify": ("label_column", "sequence_column"), "tag": ("label_column",)}
REMEMBER_SECONDS = 7 * 86_400.0
RETRY_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """What was asked for, checked as far as that goes without the dataset."""

    tenant: str
    id: str  # "": one is made
    dataset: str  # a key; "": `uri` is used
    uri: str
    recipe: Mapping[str, Any]
    model: str  # a key; "": none
    alias: str
    margin: float | None
    workers: int
    priority: int


class Jobs:
    """Methods block, each for one transaction: in a server, call them in a thread."""

    def __init__(
        self,
        database: Database,
        folder: DataFolder,
        *,
        queue: int,
        runs_here: bool,
        quotas: Quotas = UNLIMITED,
    ) -> None:
        self._database = database
        self._folder = folder
        self._queue = queue
        self._quotas = quotas
        self._runs_here = runs_here  # this server trains what is at home in its folder

    def create(
        self, new: NewJob, *, validate_only: bool, request_id: str, digest: bytes
    ) -> JobRecord:
        """Queue a job, or give back what the same request made; the data is not looked at.

        Raises DatasetNotFound, DatasetInvalid, JobExists, QueueFull, InvalidField.
        """
        with self._database.begin() as session:
            if not validate_only and (made := _same_request(session, request_id, digest)):
                return made
            home, kind = self._check_source(session, new)
            if self._runs_here and home == self._folder.home:
                _check_machine(new.recipe)
            job = JobRecord(
                id=key_of(new.tenant, new.id or f"job-{secrets.token_hex(4)}"),
                home=home,
                dataset=new.dataset,
                uri=new.uri,
                format=kind,
                recipe=dict(new.recipe),
                model=new.model,
                alias=new.alias,
                margin=new.margin,
                workers=new.workers,
                priority=new.priority,
                state=QUEUED,
                created=round(time.time(), 6),  # page tokens are microseconds
            )
            if session.scalar(select(JobRecord.number).where(JobRecord.id == job.id)):
                raise JobExists(f"there is a {job_name(job.id)}", field="job_id")
            self._check_queue(session, new.tenant)
            session.add(job)
            session.flush()
            if validate_only:
                session.expunge(job)
                session.rollback()
                return job
            events.append(session, job, events.STATE, {"state": QUEUED})
            if request_id:
                session.add(
                    RequestRecord(
                        id=request_id,
                        digest=digest,
                        job=job.number,
                        created=job.created,
                    )
                )
        return job

    def made(self, request_id: str, digest: bytes) -> JobRecord | None:
        """What the same request made, if it had an id. Raises InvalidField."""
        with self._database.begin() as session:
            return _same_request(session, request_id, digest)

    def get(self, job: str) -> JobRecord:
        """Raises JobNotFound."""
        with self._database.begin() as session:
            return find(session, job)

    def page(
        self, *, tenant: str, before: int, size: int, states: Collection[str], model: str
    ) -> tuple[list[JobRecord], int]:
        """A tenant's jobs, or all, newest first; then what to go on from, or 0.

        `before` and what to go on from are microseconds: a number would tell how many jobs there
        are of others.
        """
        query = select(JobRecord).order_by(JobRecord.created.desc(), JobRecord.number.desc())
        query = query.where(JobRecord.id.startswith(key_of(tenant, ""))).limit(size + 1)
        if before:
            query = query.where(JobRecord.created < before / 1e6)
        if states:
            query = query.where(JobRecord.state.in_(states))
        if model:
            query = query.where(JobRecord.model == model)
        with self._database.begin() as session:
            jobs = list(session.scalars(query))
        return jobs[:size], round(jobs[size - 1].created * 1e6) if len(jobs) > size else 0

    def events(self, job: str, sequence: int, limit: int) -> tuple[JobRecord, list[EventRecord]]:
        """The job and its events after a sequence, as of one moment. Raises JobNotFound."""
        with self._database.begin() as session:
            record = find(session, job)
            return record, events.after(session, record.number, sequence, limit)

    def cancel(self, job: str) -> JobRecord:
        """Its owner sees to the rest. Raises JobNotFound."""
        with self._database.begin() as session:
            record = find(session, job, lock=True)
            if record.state == QUEUED:
                change_state(session, record, CANCELLED)
            elif record.state in ACTIVE and record.state != CANCELLING:
                change_state(session, record, CANCELLING)
        return record

    def resume(self, job: str, max_steps: int | None) -> JobRecord:
        """Raises JobNotFound, JobNotResumable, QueueFull, InvalidField."""
        with self._database.begin() as session:
            record = find(session, job, lock=True)
            if record.state not in (FAILED, CANCELLED):
                raise JobNotResumable(
                    f"only a job that failed or was cancelled can be resumed, {job_name(job)} is "
                    f"{record.state}",
                    field="name",
                )
            if record.dataset and not _is_ready(session, record.dataset):
                raise JobNotResumable(
                    f"{dataset_name(record.dataset)}, from which {job_name(job)} learns, was "
                    "deleted",
                    field="name",
                )
            self._check_queue(session, owner_of(job))
            if max_steps is not None:
                if max_steps == 0:
                    raise InvalidField(
                        "max_steps must be at least 1 or unset, got 0", field="max_steps"
                    )
                record.recipe = {**record.recipe, "max_steps": max_steps}
            record.message, record.ended, record.fruitless = "", None, 0
            change_state(session, record, QUEUED)
        return record

    def delete(self, job: str) -> None:
        """Raises JobNotFound, JobActive."""
        with self._database.begin() as session:
            record = find(session, job, lock=True)
            if record.state not in ENDED:
                raise JobActive(
                    f"{job_name(job)} is {record.state}; cancel it and wait for its end",
                    field="name",
                )
            session.delete(record)
        if record.home == self._folder.home:
            self._folder.remove_job(record.number)

    def _check_source(self, session: Session, new: NewJob) -> tuple[str, str]:
        """Home and format of what it learns from; locks the dataset against its deletion."""
        if not new.dataset:
            self._folder.open_uri(new.uri).close()
            return self._folder.home, format_of(new.uri.rpartition("/")[2])
        query = select(DatasetRecord).where(DatasetRecord.id == new.dataset).with_for_update()
        dataset = session.scalar(query)
        if dataset is None:
            raise DatasetNotFound(f"there is no {dataset_name(new.dataset)}", field="job.dataset")
        if dataset.state != READY:
            raise DatasetInvalid(
                f"{dataset_name(new.dataset)} has {dataset.received_bytes:,} of "
                f"{dataset.size_bytes:,} bytes: it is being uploaded",
                field="job.dataset",
            )
        check_columns(new.recipe["task"], dataset)
        return dataset.home, dataset.format

    def unfinished(self, tenant: str) -> int:
        """A tenant's jobs that wait or run."""
        if not self._database.exists:
            return 0
        with self._database.begin() as session:
            return _unfinished(session, tenant)

    def _check_queue(self, session: Session, tenant: str) -> None:
        """Raises QueueFull, QuotaExceeded."""
        if self._quotas.of(tenant).jobs is not None:
            self._database.count_alone(session, tenant)
            self._quotas.check(tenant, "jobs", _unfinished(session, tenant))
        waiting = session.scalar(
            select(func.count()).select_from(JobRecord).where(JobRecord.state == QUEUED)
        )
        if (waiting or 0) >= self._queue:
            raise QueueFull(
                f"{waiting:,} jobs wait already; at most {self._queue:,} may",
                retry_after=RETRY_SECONDS,
            )


def _unfinished(session: Session, tenant: str) -> int:
    query = select(func.count()).select_from(JobRecord).where(JobRecord.state.in_(UNFINISHED))
    return session.scalar(query.where(JobRecord.id.startswith(key_of(tenant, "")))) or 0


def find(session: Session, job: str, *, lock: bool = False) -> JobRecord:
    """Raises JobNotFound."""
    query = select(JobRecord).where(JobRecord.id == job)
    record = session.scalar(query.with_for_update() if lock else query)
    if record is None:
        raise JobNotFound(f"there is no {job_name(job)}", field="name")
    return record


def change_state(session: Session, job: JobRecord, state: str, message: str = "") -> None:
    """Go to a state; at an end nobody owns the job any more."""
    job.state = state
    if state in ENDED:
        job.message, job.ended = message, time.time()
        job.owner, job.lease_until = "", 0.0
    events.append(session, job, events.STATE, {"state": state})


def check_columns(task: Mapping[str, Any], dataset: DatasetRecord) -> None:
    """Whether the task fits the format and names columns that are there. Raises DatasetInvalid."""
    text = task["type"] == "language_model"
    if text != (dataset.format == "text"):
        wanted = "text" if text else "a table or an archive"
        raise DatasetInvalid(
            f"{task['type']} learns from {wanted}, {dataset_name(dataset.id)} is {dataset.format}",
            field="job.recipe.task",
        )
    if dataset.format in ("text", "npz"):
        return
    for key in MUST_NAME.get(task["type"], ()):
        if not task[key]:
            raise DatasetInvalid(
                f"{key} must be set to learn {task['type']} from a table: only an archive says it "
                "by itself",
                field=f"job.recipe.{task['type']}.{key}",
            )
    there = [column["name"] for column in dataset.columns]
    for key, value in task.items():
        if key in ("targets", "features") or key.endswith("_column"):
            for name in [value] if isinstance(value, str) else value:
                if name and name not in there:
                    raise DatasetInvalid(
                        f"{key} names {name!r}, which {dataset_name(dataset.id)} does not have; it "
                        "has " + ", ".join(there)[:500],
                        field=f"job.recipe.{task['type']}.{key}",
                    )


def _check_machine(recipe: Mapping[str, Any]) -> None:
    """Whether this machine can learn so. Raises InvalidField.

    A GPU that its processes would use is not touched here; they look for themselves.
    """
    if torch.cuda.is_available():
        return
    try:
        check_precision(recipe["precision"])
    except ConfigError as error:
        raise InvalidField(f"job.recipe.{error}", field="job.recipe.precision") from None


def format_of(file_name: str, *, field: str = "job.uri") -> str:
    """The format that a file's name tells. Raises InvalidField."""
    try:
        return guess_format(file_name)
    except DataError as error:
        raise InvalidField(f"{field}: {error}", field=field) from None


def _is_ready(session: Session, dataset: str) -> bool:
    state = session.scalar(select(DatasetRecord.state).where(DatasetRecord.id == dataset))
    return state == READY


def _same_request(session: Session, request_id: str, digest: bytes) -> JobRecord | None:
    if not request_id:
        return None
    session.execute(
        delete(RequestRecord).where(RequestRecord.created < time.time() - REMEMBER_SECONDS)
    )
    known = session.get(RequestRecord, request_id)
    if known is None:
        return None
    if known.digest != digest:
        raise InvalidField("request_id was used for another request", field="request_id")
    return session.get_one(JobRecord, known.job)
