"""The records of training as tables: datasets, jobs, their events, and requests that had an id.

Times are Unix seconds. `home` says in whose data folder the files are: servers that share a
database and not the disk all answer for a job, but only one at home runs it. The ids of datasets,
jobs and requests, and the model of a job, are keys: those of a tenant begin with `{tenant}/`.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, LargeBinary
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

UPLOADING: Final = "uploading"
READY: Final = "ready"

QUEUED: Final = "queued"
PREPARING: Final = "preparing"
RUNNING: Final = "running"
CANCELLING: Final = "cancelling"
SUCCEEDED: Final = "succeeded"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"

ACTIVE = (PREPARING, RUNNING, CANCELLING)  # somebody owns it
UNFINISHED = (QUEUED, *ACTIVE)
ENDED = (SUCCEEDED, FAILED, CANCELLED)
STATES = (*UNFINISHED, *ENDED)

Object = dict[str, Any]

# SQLite numbers rows by itself only under this very name of the type.
_Number = BigInteger().with_variant(Integer, "sqlite")


class Record(DeclarativeBase):
    """A row of a table; a `str`, a `float` and so on are columns that are never null."""

    type_annotation_map = {  # noqa: RUF012 (as SQLAlchemy wants it)
        Object: JSON,
        list[Object]: JSON,
        int: BigInteger,
        bytes: LargeBinary,
    }


class DatasetRecord(Record):
    """A dataset; its bytes are in the data folder."""

    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(primary_key=True)
    home: Mapped[str]
    state: Mapped[str]
    format: Mapped[str]
    file_name: Mapped[str]
    size_bytes: Mapped[int]
    sha256: Mapped[bytes]
    received_bytes: Mapped[int]
    rows: Mapped[int] = mapped_column(default=0)
    columns: Mapped[list[Object]] = mapped_column(default=list)
    text: Mapped[Object | None]  # of a text: its statistics, as in the proto
    created: Mapped[float]


class JobRecord(Record):
    """A job. Its owner renews `lease_until`; when that has passed, another server takes over."""

    __tablename__ = "jobs"
    # A number that was used is never used again: it names a folder.
    __table_args__ = (Index("jobs_by_state", "state", "home"), {"sqlite_autoincrement": True})

    number: Mapped[int] = mapped_column(_Number, primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    home: Mapped[str]
    dataset: Mapped[str] = mapped_column(index=True)  # "": it has a uri
    uri: Mapped[str]
    format: Mapped[str]
    recipe: Mapped[Object]
    model: Mapped[str]
    alias: Mapped[str]
    margin: Mapped[float | None]
    workers: Mapped[int]
    priority: Mapped[int]
    state: Mapped[str]
    message: Mapped[str] = mapped_column(default="")
    created: Mapped[float]
    started: Mapped[float | None]
    ended: Mapped[float | None]
    # What its process said
    progress: Mapped[Object | None]
    evaluation: Mapped[Object | None]
    checkpoints: Mapped[list[Object]] = mapped_column(default=list)
    parameters: Mapped[int] = mapped_column(default=0)
    said: Mapped[Object | None]  # the last event of its present process that tells where it is
    # How its process runs
    attempts: Mapped[int] = mapped_column(default=0)
    fruitless: Mapped[int] = mapped_column(default=0)  # starts since the last checkpoint
    owner: Mapped[str] = mapped_column(default="")
    lease_until: Mapped[float] = mapped_column(default=0.0)
    machine: Mapped[str] = mapped_column(default="")
    pid: Mapped[int] = mapped_column(default=0)
    pid_start: Mapped[int] = mapped_column(default=0)
    # How much of its events is in the table
    events_read: Mapped[int] = mapped_column(default=0)  # bytes of events.jsonl
    last_sequence: Mapped[int] = mapped_column(default=0)
    # What became of the result; 0: no version yet
    version: Mapped[int] = mapped_column(default=0)
    promoted: Mapped[bool] = mapped_column(default=False)


class EventRecord(Record):
    """Something that happened to a job; `body` is as in events.jsonl."""

    __tablename__ = "events"

    job: Mapped[int] = mapped_column(
        ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    time: Mapped[float]
    attempt: Mapped[int]
    type: Mapped[str]
    body: Mapped[Object]


class RequestRecord(Record):
    """A request that had an id, and the job that it made."""

    __tablename__ = "request_ids"

    id: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[bytes]
    job: Mapped[int] = mapped_column(ForeignKey("jobs.number", ondelete="CASCADE"))
    created: Mapped[float] = mapped_column(index=True)
