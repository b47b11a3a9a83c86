"""Uploads of datasets: a stream of a header and checksummed pieces, kept as far as it came."""

from __future__ import annotations

import asyncio
import secrets
import zlib
from collections.abc import AsyncIterator
from contextlib import nullcontext

from carousel.errors import InvalidField, UploadDamaged
from carousel.server.fair_turn import FairTurn
from carousel.server.names import check_id, key_of
from carousel.server.training.datasets import Announced, Datasets, Incoming
from carousel.server.training.jobs import format_of
from carousel.server.training.records import DatasetRecord
from carousel.server.uploads import MAX_PIECE, SHA256_BYTES, to_end
from carousel.v1 import dataset_pb2
from carousel.v1 import training_service_pb2 as pb

SAFE_BYTES = 64 * 1024**2  # so much at most is sent again after a crash of the machine
MAX_FILE_NAME = 255
MAX_BYTES = 2**50

Requests = AsyncIterator[pb.UploadDatasetRequest]


class DatasetUploads:
    """Takes uploads in; describing, which reads all of a file, is done one at a time."""

    def __init__(self, datasets: Datasets) -> None:
        self._datasets = datasets
        self._describing = FairTurn()

    async def receive(self, requests: Requests, tenant: str) -> DatasetRecord:
        """Take a tenant's upload to its end, as far as it comes.

        Raises UploadDamaged, DatasetExists, DatasetInUse, DatasetInvalid, InvalidField,
        StoreUnwritable.
        """
        announced = await _read_header(requests, tenant)
        incoming = await to_end(lambda: self._datasets.begin(announced), final=True)
        if isinstance(incoming, DatasetRecord):
            return incoming
        try:
            try:
                await self._fill(incoming, announced, requests)
            finally:  # what came is kept, also when the caller is gone
                await to_end(lambda: self._keep(incoming, announced.id))
            if incoming.missing:
                raise UploadDamaged(
                    f"{announced.size_bytes:,} bytes were announced, {incoming.size:,} arrived; "
                    "go on from there"
                )
            # Still locked: nobody else may write to what is being checked. One process at a time
            # reads what takes long; what is harmless need not wait for somebody's large file.
            harmless = await asyncio.to_thread(self._datasets.is_harmless, announced)
            async with nullcontext() if harmless else self._describing.of(tenant):
                return await to_end(
                    lambda: self._datasets.complete(announced.id, announced), final=True
                )
        finally:
            await to_end(incoming.close)

    async def _fill(self, incoming: Incoming, announced: Announced, requests: Requests) -> None:
        safe = incoming.size
        async for request in requests:
            if request.WhichOneof("part") != "piece":
                raise InvalidField("after the header each message must be a piece", field="piece")
            data = request.piece.data
            if len(data) > MAX_PIECE:
                raise InvalidField(
                    f"piece.data must have at most {MAX_PIECE:,} bytes, got {len(data):,}",
                    field="piece.data",
                )
            if zlib.crc32(data) != request.piece.crc32:
                raise UploadDamaged(
                    f"the CRC-32 of the piece at byte {incoming.size:,} does not match; what came "
                    "before it is kept"
                )
            await to_end(lambda data=data: incoming.write(data))  # type: ignore[misc]
            if incoming.size - safe >= SAFE_BYTES:
                await to_end(lambda: self._keep(incoming, announced.id))
                safe = incoming.size

    def _keep(self, incoming: Incoming, dataset: str) -> None:
        self._datasets.received(dataset, incoming.flush())


async def _read_header(requests: Requests, tenant: str) -> Announced:
    """The stream's first message. Raises InvalidField."""
    first = await anext(requests, None)
    if first is None or first.WhichOneof("part") != "header":
        raise InvalidField("the first message must be the header", field="header")
    header = first.header
    dataset = header.dataset_id or f"dataset-{secrets.token_hex(4)}"
    check_id(dataset, field="header.dataset_id")
    if not header.size_bytes:
        raise InvalidField(
            "header.size_bytes must be at least 1, got 0: the file is empty",
            field="header.size_bytes",
        )
    if header.size_bytes > MAX_BYTES:
        raise InvalidField(
            f"header.size_bytes must be at most {MAX_BYTES:,}, got {header.size_bytes:,}",
            field="header.size_bytes",
        )
    if len(header.sha256) != SHA256_BYTES:
        raise InvalidField(
            f"header.sha256 must have {SHA256_BYTES} bytes, got {len(header.sha256)}",
            field="header.sha256",
        )
    if len(header.file_name) > MAX_FILE_NAME:
        raise InvalidField(
            f"header.file_name must have at most {MAX_FILE_NAME} characters, got "
            f"{len(header.file_name)}",
            field="header.file_name",
        )
    kind = _format(header)
    return Announced(
        key_of(tenant, dataset),
        header.file_name,
        kind,
        header.size_bytes,
        header.sha256,
        header.offset,
    )


def _format(header: pb.DatasetHeader) -> str:
    if header.format == dataset_pb2.DATASET_FORMAT_UNSPECIFIED:
        return format_of(header.file_name, field="header.format")
    try:
        name = dataset_pb2.DatasetFormat.Name(header.format)
    except ValueError:
        raise InvalidField(
            f"header.format must be a DatasetFormat, got {header.format}", field="header.format"
        ) from None
    return name.removeprefix("DATASET_FORMAT_").lower()
