"""Datasets: bytes that come in pieces, are complete or not there, and do not change after that."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from carousel.errors import (
    DatasetExists,
    DatasetInUse,
    DatasetInvalid,
    DatasetNotFound,
    InvalidField,
    UploadDamaged,
)
from carousel.model.data import DataError
from carousel.server.beneath import path_of
from carousel.server.names import dataset_name, key_of, owner_of
from carousel.server.quotas import UNLIMITED, Quotas
from carousel.server.staging import sync, writing
from carousel.server.training import describe
from carousel.server.training.child import Object, fault, is_harmless, refusal, run_child
from carousel.server.training.data_folder import DataFolder
from carousel.server.training.database import Database
from carousel.server.training.process import Share
from carousel.server.training.records import READY, UNFINISHED, UPLOADING, DatasetRecord, JobRecord

DESCRIBE_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Announced:
    """What an upload says that it will bring."""

    id: str
    file_name: str
    format: str
    size_bytes: int
    sha256: bytes
    offset: int


class Datasets:
    """Methods block: in a server, call them in a thread."""

    def __init__(
        self,
        database: Database,
        folder: DataFolder,
        *,
        share: Share,
        quotas: Quotas = UNLIMITED,
    ) -> None:
        self._database = database
        self._folder = folder
        self._share = share
        self._quotas = quotas

    def begin(self, announced: Announced) -> Incoming | DatasetRecord:
        """A new upload, or one that goes on; of a dataset that is READY the dataset.

        Raises DatasetExists, DatasetInUse, InvalidField, QuotaExceeded, StoreUnwritable.
        """
        with self._database.begin() as session:
            record = session.get(DatasetRecord, announced.id)
            if record is None:
                tenant = owner_of(announced.id)
                if self._quotas.of(tenant).dataset_bytes is not None:
                    self._database.count_alone(session, tenant)
                    used = _bytes_of(session, tenant)
                    self._quotas.check(tenant, "dataset_bytes", used, announced.size_bytes)
                self._folder.check_room(announced.size_bytes)
                session.add(self._record(announced))
            elif not _is_same(record, announced):
                raise DatasetExists(
                    f"there is a {dataset_name(record.id)} of {record.size_bytes:,} other bytes",
                    field="header.dataset_id",
                )
            elif record.state == READY:
                return record
            elif record.home != self._folder.home:
                raise DatasetInUse(
                    f"{dataset_name(record.id)} is being uploaded to another server, go on there",
                    field="header.dataset_id",
                )
        return Incoming(self._folder.dataset(announced.id), announced)

    def received(self, dataset: str, size: int) -> None:
        """Keep how many bytes are safely there."""
        with self._database.begin() as session:
            _find(session, dataset).received_bytes = size

    def complete(self, dataset: str, announced: Announced) -> DatasetRecord:
        """Check all that arrived and make it READY; what fails is removed.

        Raises UploadDamaged, DatasetInvalid.
        """
        try:
            with self._open(dataset) as file:
                _check_sha256(file, announced.sha256)
                found = self.describe(file, announced.format)
            with writing():
                sync(self._folder.dataset(dataset).parent)
        except (UploadDamaged, DatasetInvalid):
            self._remove(dataset)
            raise
        with self._database.begin() as session:
            record = _find(session, dataset)
            record.state, record.received_bytes = READY, record.size_bytes
            record.rows, record.columns = found["rows"], found["columns"]
            record.text = found["text"]
        return record

    def is_harmless(self, announced: Announced) -> bool:
        """Whether what arrived is read in a moment."""
        with self._open(announced.id) as file:
            return is_harmless(file, announced.format)

    def describe(self, file: BinaryIO, kind: str) -> Object:
        """What is in it, read by a process unless it is harmless. Raises DatasetInvalid."""
        if is_harmless(file, kind):
            try:
                return describe.read(path_of(file), kind)
            except DataError as error:
                raise refusal(fault(error)) from None
        return run_child("describe", kind, share=self._share, seconds=DESCRIBE_SECONDS, data=file)

    def get(self, dataset: str) -> tuple[DatasetRecord, int]:
        """The dataset and how many unfinished jobs learn from it. Raises DatasetNotFound."""
        with self._database.begin() as session:
            record = _find(session, dataset)
            return record, _jobs(session, [dataset]).get(dataset, 0)

    def page(
        self, tenant: str, after: str, size: int
    ) -> tuple[list[tuple[DatasetRecord, int]], bool]:
        """A tenant's datasets, or all, after a key, in order, with their unfinished jobs; whether
        there are more."""
        query = (
            select(DatasetRecord)
            .where(DatasetRecord.id > after, DatasetRecord.id.startswith(key_of(tenant, "")))
            .order_by(DatasetRecord.id)
            .limit(size + 1)
        )
        with self._database.begin() as session:
            found = list(session.scalars(query))
            jobs = _jobs(session, [record.id for record in found])
        return [(record, jobs.get(record.id, 0)) for record in found[:size]], len(found) > size

    def bytes_of(self, tenant: str) -> int:
        """Of all datasets of a tenant, as they were announced."""
        if not self._database.exists:
            return 0
        with self._database.begin() as session:
            return _bytes_of(session, tenant)

    def delete(self, dataset: str) -> None:
        """Raises DatasetNotFound, DatasetInUse."""
        with self._database.begin() as session:
            record = _find(session, dataset, lock=True)
            if jobs := _jobs(session, [dataset]).get(dataset, 0):
                raise DatasetInUse(
                    f"{jobs} unfinished jobs learn from {dataset_name(dataset)}", field="name"
                )
            here = record.home == self._folder.home
            if here and record.state == UPLOADING and _is_locked(self._folder.dataset(dataset)):
                raise DatasetInUse(f"{dataset_name(dataset)} is being uploaded", field="name")
            session.delete(record)
        if here:
            self._folder.remove_dataset(dataset)

    def _record(self, announced: Announced) -> DatasetRecord:
        return DatasetRecord(
            id=announced.id,
            home=self._folder.home,
            state=UPLOADING,
            format=announced.format,
            file_name=announced.file_name,
            size_bytes=announced.size_bytes,
            sha256=announced.sha256,
            received_bytes=0,
            created=time.time(),
        )

    def _open(self, dataset: str) -> BufferedReader:
        with writing():
            return self._folder.open_dataset(dataset)

    def _remove(self, dataset: str) -> None:
        with self._database.begin() as session:
            session.delete(_find(session, dataset))
        self._folder.remove_dataset(dataset)


class Incoming:
    """The file of an upload while it grows, locked so that no second upload writes there too.

    Raises DatasetInUse, InvalidField (an offset beyond what is there), StoreUnwritable.
    """

    def __init__(self, file: Path, announced: Announced) -> None:
        self._announced = announced
        with writing():
            file.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = file.open("ab")
        try:
            if not _lock(self._file):
                raise DatasetInUse(
                    f"{dataset_name(announced.id)} is being uploaded by somebody else",
                    field="header.dataset_id",
                )
            there = self._file.tell()
            if announced.offset > there:
                raise InvalidField(
                    f"header.offset must be at most {there:,}, the bytes that are there, got "
                    f"{announced.offset:,}",
                    field="header.offset",
                )
            with writing():
                self._file.truncate(announced.offset)
        except BaseException:
            self._file.close()
            raise
        self.size = announced.offset

    @property
    def missing(self) -> int:
        """Bytes that have not come yet."""
        return self._announced.size_bytes - self.size

    def write(self, data: bytes) -> None:
        """Raises UploadDamaged (more than was announced), StoreUnwritable."""
        if len(data) > self.missing:
            raise UploadDamaged(
                f"{self._announced.size_bytes:,} bytes were announced, more arrived"
            )
        with writing():
            self._file.write(data)
        self.size += len(data)

    def flush(self) -> int:
        """Bring what came to the disk; returns how much is there."""
        with writing():
            self._file.flush()
            os.fsync(self._file.fileno())
        return self.size

    def close(self) -> None:
        with writing():
            self._file.close()


def _find(session: Session, dataset: str, *, lock: bool = False) -> DatasetRecord:
    record = session.get(DatasetRecord, dataset, with_for_update=lock)
    if record is None:
        raise DatasetNotFound(f"there is no {dataset_name(dataset)}", field="name")
    return record


def _bytes_of(session: Session, tenant: str) -> int:
    query = select(func.sum(DatasetRecord.size_bytes))
    return int(session.scalar(query.where(DatasetRecord.id.startswith(key_of(tenant, "")))) or 0)


def _is_same(record: DatasetRecord, announced: Announced) -> bool:
    """The format counts too: the same bytes read otherwise are other data."""
    return (record.size_bytes, record.sha256, record.format) == (
        announced.size_bytes,
        announced.sha256,
        announced.format,
    )


def _jobs(session: Session, datasets: list[str]) -> dict[str, int]:
    query = (
        select(JobRecord.dataset, func.count())
        .where(JobRecord.dataset.in_(datasets), JobRecord.state.in_(UNFINISHED))
        .group_by(JobRecord.dataset)
    )
    return {dataset: count for dataset, count in session.execute(query)}


def _check_sha256(file: BufferedReader, announced: bytes) -> None:
    with writing():
        found = hashlib.file_digest(file, "sha256").digest()
    if found != announced:
        raise UploadDamaged(
            f"the data's SHA-256 should be {announced.hex()}, it is {found.hex()}; all of it is "
            "needed again"
        )


def _lock(file: BinaryIO) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _is_locked(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        return not _lock(file)
    return False
