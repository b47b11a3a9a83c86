"""Datasets: sent, described, resumed; the same with both clients."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from carousel.client import AsyncClient, Client, Dataset, DatasetFormat, DatasetState
from carousel.client._datasets_upload import DatasetUpload
from carousel.errors import DatasetNotFound, InvalidField
from tests.client.conftest import READINGS
from tests.client.relay import Relay
from tests.conftest import RunningServer
from tests.processes import PATIENCE

DATA = READINGS.encode()


def pieces(source: Path | bytes | io.IOBase) -> list[bytes]:
    """Everything that an upload would send."""
    upload = DatasetUpload(source, id="same", format="csv", progress=None)  # type: ignore[arg-type]
    header, *rest = upload.parts()
    upload.close()
    assert header.header.sha256 == hashlib.sha256(DATA).digest()
    assert all(part.piece.crc32 == zlib.crc32(part.piece.data) for part in rest)
    return [part.piece.data for part in rest]


def test_a_path_a_file_and_bytes_are_sent_alike(tmp_path: Path) -> None:
    path = tmp_path / "readings.csv"
    path.write_bytes(DATA)
    with path.open("rb") as file:
        file.read(7)  # wherever it stands
        sent = [pieces(source) for source in (path, file, DATA, io.BytesIO(DATA))]
        assert not file.closed
    assert all(b"".join(one) == DATA for one in sent)


def test_an_id_is_made_of_the_name_and_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "My Readings (new).csv"
    path.write_bytes(DATA)
    upload = DatasetUpload(path, id=None, format=None, progress=None)
    upload.close()
    assert upload.name == f"datasets/my-readings-new-{hashlib.sha256(DATA).hexdigest()[:8]}"


def test_a_table_is_described(teacher: Client, readings: Dataset) -> None:
    assert readings.id == "readings"
    assert (readings.state, readings.format) == (DatasetState.READY, DatasetFormat.CSV)
    assert readings.sha256 == hashlib.sha256(DATA).hexdigest()
    assert (readings.size_bytes, readings.received_bytes) == (len(DATA), len(DATA))
    assert readings.rows == 400
    hour, _, note = readings.columns
    assert (hour.name, hour.missing, hour.minimum, hour.maximum) == ("hour", 0, 0.0, 399.0)
    assert (note.minimum, note.mean, note.distinct) == (None, None, 2)
    assert teacher.datasets.get("readings").columns == readings.columns
    assert "readings" in [one.id for one in teacher.datasets.list()]


def test_what_is_there_is_not_sent_again(teacher: Client, readings: Dataset) -> None:
    told: list[int] = []
    again = teacher.datasets.upload(DATA, id="readings", progress=lambda done, _: told.append(done))
    assert again.sha256 == readings.sha256
    assert told == [len(DATA)]


def test_what_is_no_dataset_is_refused(teacher: Client, tmp_path: Path) -> None:
    with pytest.raises(
        InvalidField, match="format must be text, csv, parquet, npz or jsonl, got 'xls'"
    ):
        teacher.datasets.upload(DATA, format="xls")
    with pytest.raises(FileNotFoundError):
        teacher.datasets.upload(tmp_path / "none.csv")
    with pytest.raises(DatasetNotFound):
        teacher.datasets.get("nowhere")


class Cutter:
    """Told of an upload's progress, cuts its connection once, half way."""

    def __init__(self, cut: Callable[[], None]) -> None:
        self._cut: Callable[[], None] | None = cut
        self.told: list[int] = []

    def __call__(self, sent: int, total: int) -> None:
        self.told.append(sent)
        if self._cut and sent >= total // 2:
            cut, self._cut = self._cut, None
            cut()

    def went_on_at(self) -> list[int]:
        """Where it began anew."""
        return [after for before, after in pairwise(self.told) if after <= before]


def test_a_broken_upload_goes_on_where_it_stood(trainer: RunningServer) -> None:
    data = _letters(24 * 2**20)
    relay = Relay(trainer.target)
    progress = Cutter(relay.cut)
    try:
        with Client(relay.target, timeout=PATIENCE) as client:
            made = client.datasets.upload(data, format="text", progress=progress)
            client.datasets.delete(made.id)
    finally:
        relay.close()
    assert made.sha256 == hashlib.sha256(data).hexdigest()
    assert made.rows == len(data)
    [went_on] = progress.went_on_at()
    assert went_on > 0


def test_a_broken_upload_of_an_event_loop_goes_on_where_it_stood(trainer: RunningServer) -> None:
    data = _letters(24 * 2**20 + 1)
    relay = Relay(trainer.target)
    progress = Cutter(relay.cut)

    async def main() -> None:
        async with AsyncClient(relay.target, timeout=PATIENCE) as client:
            made = await client.datasets.upload(data, format="text", progress=progress)
            assert made.sha256 == hashlib.sha256(data).hexdigest()
            assert (await client.datasets.get(made.id)).rows == len(data)
            assert made.id in [one.id async for one in client.datasets.list()]
            await client.datasets.delete(made.id)
            with pytest.raises(DatasetNotFound):
                await client.datasets.get(made.id)

    try:
        asyncio.run(main())
    finally:
        relay.close()
    [went_on] = progress.went_on_at()
    assert went_on > 0


def _letters(count: int) -> bytes:
    return random.Random(count).randbytes(count).translate(bytes(97 + i % 26 for i in range(256)))
