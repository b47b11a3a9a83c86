"""Uploads: a stream of a header and pieces becomes a staged version, checked while it arrives."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from carousel.errors import InvalidField, StoreUnwritable, UploadDamaged
from carousel.server.names import model_id
from carousel.server.staging import Staging, writing
from carousel.server.version import (
    MAX_BASELINE_BYTES,
    MAX_CARD_BYTES,
    MAX_CONFIG_BYTES,
    max_weights_bytes,
    read_config,
)
from carousel.v1 import model_service_pb2 as pb

MAX_PIECE = 4 * 1024**2
SHA256_BYTES = 32
REST_SECONDS = 2.0

T = TypeVar("T")
Requests = AsyncIterator[pb.UploadModelVersionRequest]


async def read_header(requests: Requests) -> pb.UploadHeader:
    """The stream's first message. Raises InvalidField, WeightsInvalid."""
    first = await anext(requests, None)
    if first is None or first.WhichOneof("part") != "header":
        raise InvalidField("the first message must be the header", field="header")
    header = first.header
    model_id(header.parent, field="header.parent")
    _check_size("header.config_json", len(header.config_json.encode()), 1, MAX_CONFIG_BYTES)
    _check_size("header.card", len(header.card.encode()), 0, MAX_CARD_BYTES)
    baseline_bytes = len(header.baseline_json.encode())
    _check_size("header.baseline_json", baseline_bytes, 0, MAX_BASELINE_BYTES)
    _check_size("header.weights_sha256", len(header.weights_sha256), SHA256_BYTES, SHA256_BYTES)
    # So nobody can fill the disk with what could never be this model.
    limit = await asyncio.to_thread(lambda: max_weights_bytes(read_config(header.config_json)))
    if not 0 < header.weights_bytes <= limit:
        raise InvalidField(
            "header.weights_bytes must be between 1 and what the config can need, "
            f"{limit:,}, got {header.weights_bytes:,}",
            field="header.weights_bytes",
        )
    return header


@contextlib.asynccontextmanager
async def staged(
    make: Callable[[], Staging], fill: Callable[[Staging], Awaitable[None]] | None = None
) -> AsyncIterator[Staging]:
    """A filled staging folder while the block runs; gone after it, also when it was cancelled."""
    staging = await to_end(make, final=True)  # dropping it would leave the folder behind
    try:
        if fill is not None:
            await fill(staging)
        yield staging
    finally:
        await to_end(staging.discard)


async def receive(header: pb.UploadHeader, requests: Requests, staging: Staging) -> None:
    """Write what comes into the staging folder. Raises UploadDamaged, StoreUnwritable."""
    await to_end(lambda: _begin(header, staging))
    digest, received, announced = hashlib.sha256(), 0, header.weights_bytes
    weights = staging.open_weights()

    def keep(data: bytes) -> None:
        digest.update(data)
        with writing():
            weights.write(data)

    try:
        async for request in requests:
            if request.WhichOneof("part") != "data":
                raise InvalidField("after the header each message must be data", field="data")
            _check_size("data", len(request.data), 0, MAX_PIECE)
            received += len(request.data)
            if received > announced:
                raise UploadDamaged(f"{announced:,} bytes were announced, more arrived")
            await to_end(lambda data=request.data: keep(data))  # type: ignore[misc]
    finally:
        with writing():
            weights.close()
    if received != announced:
        raise UploadDamaged(f"{announced:,} bytes were announced, {received:,} arrived")
    if digest.digest() != header.weights_sha256:
        raise UploadDamaged(
            f"the weights' SHA-256 should be {header.weights_sha256.hex()}, "
            f"it is {digest.hexdigest()}"
        )


async def read_rest(requests: AsyncIterator[object], seconds: float = REST_SECONDS) -> None:
    """Let the client finish sending what is not needed any more, for at most so long.

    grpc.aio's client reports an internal error in place of the real answer when that comes while
    it is still writing.
    """

    async def read() -> None:
        with contextlib.suppress(Exception):  # the call may end meanwhile
            async for _ in requests:
                pass

    # Not cancelled after the time: a read that is under way ends with its call.
    await asyncio.wait({asyncio.ensure_future(read())}, timeout=seconds)


def _begin(header: pb.UploadHeader, staging: Staging) -> None:
    free = shutil.disk_usage(staging.folder).free
    if header.weights_bytes > free:
        raise StoreUnwritable(
            f"the model store has {free:,} bytes free, the weights need {header.weights_bytes:,}"
        )
    staging.write_text(header.config_json, card=header.card, baseline_json=header.baseline_json)


async def to_end(work: Callable[[], T], *, final: bool = False) -> T:
    """Run in a thread, and to its end even when the caller goes away meanwhile.

    A thread can't be stopped: to leave it writing while its folder is removed would leave files
    behind. When `final`, a cancel that comes meanwhile came too late and is dropped: a version
    that did come in is not reported as cancelled.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if final or task.exception() is not None:
            return task.result()
        raise


def _check_size(field: str, size: int, low: int, high: int) -> None:
    if not low <= size <= high:
        allowed = f"{low}" if low == high else f"between {low:,} and {high:,}"
        raise InvalidField(f"{field} must have {allowed} bytes, got {size:,}", field=field)
