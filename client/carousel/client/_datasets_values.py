"""Datasets as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from carousel.client._times import to_datetime
from carousel.client._training_messages import read, word
from carousel.v1 import dataset_pb2 as pb


class DatasetFormat(StrEnum):
    """How a dataset's bytes are read."""

    TEXT = "text"
    CSV = "csv"
    PARQUET = "parquet"
    JSONL = "jsonl"
    NPZ = "npz"


class DatasetState(StrEnum):
    """Whether a dataset can be learned from."""

    UPLOADING = "uploading"
    READY = "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column with its statistics; those of numbers are None elsewhere.

    `type` is Arrow's name, such as int64, double or string. `missing` counts rows without a
    value, `distinct` the different ones, up to 10,000.
    """

    name: str
    type: str = ""
    missing: int = 0
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    std: float | None = None
    distinct: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TextStatistics:
    """What is in a text; `symbols` counts the different characters."""

    characters: int = 0
    lines: int = 0
    symbols: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Bytes to learn from, immutable once ready.

    `sha256` is in hexadecimal. `received_bytes` are safely there, less than `size_bytes` while
    it is uploading. `rows` counts rows, characters of a text or steps of an archive. `columns`
    are not there in lists. `jobs` counts the unfinished ones that learn from it. `text` is of texts
    alone. `tenant` is whose it is.
    """

    name: str
    state: DatasetState
    format: DatasetFormat
    file_name: str
    size_bytes: int
    sha256: str
    received_bytes: int
    rows: int
    columns: tuple[Column, ...]
    create_time: datetime
    jobs: int
    text: TextStatistics | None = None
    tenant: str = ""

    @property
    def id(self) -> str:
        return self.name.removeprefix("datasets/")


def dataset(message: pb.Dataset) -> Dataset:
    return Dataset(
        name=message.name,
        state=DatasetState(word(pb.DatasetState.DESCRIPTOR, message.state)),
        format=DatasetFormat(word(pb.DatasetFormat.DESCRIPTOR, message.format)),
        file_name=message.file_name,
        size_bytes=message.size_bytes,
        sha256=message.sha256.hex(),
        received_bytes=message.received_bytes,
        rows=message.rows,
        columns=tuple(read(Column, one, name=one.name) for one in message.columns),
        create_time=to_datetime(message.create_time),
        jobs=message.jobs,
        text=read(TextStatistics, message.text) if message.HasField("text") else None,
        tenant=message.tenant,
    )
