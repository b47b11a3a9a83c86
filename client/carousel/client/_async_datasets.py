"""Datasets: what `client.datasets` of AsyncClient can do."""

# ruff: noqa: ASYNC109 - a timeout is a gRPC deadline here, which the server is told

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from carousel.client import _datasets_values
from carousel.client import _training_calls as calls
from carousel.client._async_transport import AsyncTransport
from carousel.client._datasets_upload import DatasetUpload, Source
from carousel.client._datasets_values import Dataset, DatasetFormat
from carousel.client._transfer import Progress
from carousel.errors import CarouselError, DatasetNotFound
from carousel.v1 import dataset_pb2
from carousel.v1 import training_service_pb2 as pb


class AsyncDatasets:
    """The methods of `client.datasets`. A dataset is named as in `readings`."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def upload(
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
        upload = await asyncio.to_thread(
            DatasetUpload, source, id=id, format=format, progress=progress
        )
        with contextlib.closing(upload):
            while True:
                try:
                    with contextlib.suppress(DatasetNotFound):
                        if upload.is_done(found := await self.get(upload.name)):
                            return found
                    return await self._send(upload, timeout)
                except CarouselError as error:
                    await asyncio.sleep(upload.wait_after(error))

    async def _send(self, upload: DatasetUpload, timeout: float | None) -> Dataset:
        seconds = upload.seconds if timeout is None else timeout
        parts = _without_blocking(upload)
        path = calls.path("UploadDataset")
        reply = await self._transport.upload(path, parts, dataset_pb2.Dataset, timeout=seconds)
        return _datasets_values.dataset(reply)

    async def get(self, name: str, *, timeout: float | None = None) -> Dataset:
        """A dataset with its columns. Raises DatasetNotFound."""
        return await self._transport.call(calls.get_dataset(name), timeout)

    async def list(self, *, timeout: float | None = None) -> AsyncIterator[Dataset]:
        """All datasets in order of their ids, a page at a time, without their columns."""
        token = ""
        while True:
            datasets, token = await self._transport.call(calls.list_datasets(token), timeout)
            for one in datasets:
                yield one
            if not token:
                return

    async def delete(self, name: str, *, timeout: float | None = None) -> None:
        """Delete a dataset. Raises DatasetNotFound, DatasetInUse."""
        await self._transport.call(calls.delete_dataset(name), timeout)


async def _without_blocking(upload: DatasetUpload) -> AsyncIterator[pb.UploadDatasetRequest]:
    """Files are read in a thread."""
    parts = upload.parts()
    while (part := await asyncio.to_thread(next, parts, None)) is not None:
        yield part
