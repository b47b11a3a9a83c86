"""Datasets: what `client.datasets` can do."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from carousel.client import _datasets_values
from carousel.client import _training_calls as calls
from carousel.client._datasets_upload import DatasetUpload, Source
from carousel.client._datasets_values import Dataset, DatasetFormat
from carousel.client._transfer import Progress
from carousel.client._transport import Transport
from carousel.errors import CarouselError, DatasetNotFound
from carousel.v1 import dataset_pb2


class Datasets:
    """The methods of `client.datasets`. A dataset is named as in `readings`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(
        self,
        source: Source,
        *,
        id: str | None = None,
        format: DatasetFormat | str | None = None,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> Dataset:
        """Send a file, bytes or a seekable binary file; it is ready when this returns.

        Without an `id` it is made of the file's name and checksum. Without a `format` the file's
        name tells it. An upload that broke goes on where it stood, also that of an earlier call;
        what is there already is not sent again. `progress(sent, total)` is told bytes, from
        another thread. The deadline of an attempt allows a second for each MiB. Raises
        DatasetExists, DatasetInvalid, InvalidField, UploadDamaged, StoreUnwritable.
        """
        upload = DatasetUpload(source, id=id, format=format, progress=progress)
        with contextlib.closing(upload):
            while True:
                try:
                    with contextlib.suppress(DatasetNotFound):
                        if upload.is_done(found := self.get(upload.name)):
                            return found
                    return self._send(upload, timeout)
                except CarouselError as error:
                    time.sleep(upload.wait_after(error))

    def _send(self, upload: DatasetUpload, timeout: float | None) -> Dataset:
        seconds = upload.seconds if timeout is None else timeout
        path = calls.path("UploadDataset")
        reply = self._transport.upload(path, upload.parts(), dataset_pb2.Dataset, timeout=seconds)
        return _datasets_values.dataset(reply)

    def get(self, name: str, *, timeout: float | None = None) -> Dataset:
        """A dataset with its columns. Raises DatasetNotFound."""
        return self._transport.call(calls.get_dataset(name), timeout)

    def list(self, *, timeout: float | None = None) -> Iterator[Dataset]:
        """All datasets in order of their ids, a page at a time, without their columns."""
        token = ""
        while True:
            datasets, token = self._transport.call(calls.list_datasets(token), timeout)
            yield from datasets
            if not token:
                return

    def delete(self, name: str, *, timeout: float | None = None) -> None:
        """Delete a dataset. Raises DatasetNotFound, DatasetInUse."""
        self._transport.call(calls.delete_dataset(name), timeout)
