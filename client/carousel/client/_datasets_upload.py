"""An upload of a dataset: its bytes in checksummed pieces, from any place on; for both clients."""

from __future__ import annotations

import hashlib
import io
import re
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from carousel.client._datasets_values import Dataset, DatasetState
from carousel.client._names import dataset_name
from carousel.client._retry import ATTEMPTS, RESENT, delay
from carousel.client._training_calls import SLOW
from carousel.client._training_messages import number
from carousel.client._transfer import PIECE_BYTES, SLOWEST, Progress, tell
from carousel.errors import CarouselError, UploadDamaged
from carousel.v1 import dataset_pb2
from carousel.v1 import training_service_pb2 as pb

Source = str | Path | bytes | BinaryIO

_READ_BYTES = 2**20
_ID_LETTERS = 48


class DatasetUpload:
    """One upload and how far it came; to be closed.

    Without an `id` it gets one from the file's name and checksum, so that the same bytes are
    found again by the next process, if this one dies.
    """

    def __init__(
        self,
        source: Source,
        *,
        id: str | None,
        format: str | None,
        progress: Progress | None,
    ) -> None:
        self._file, self._own, file_name = _opened(source)
        self._lock = threading.Lock()  # gRPC may still read for an attempt that has failed
        self._progress = progress
        self._attempt = 0
        self._tried = -1
        described = dataset_pb2.DatasetFormat.DESCRIPTOR
        kind: Any = number(described, str(format), field="format") if format else 0
        size, digest = self._measure()
        self.name = dataset_name(id if id is not None else _made_id(file_name, digest))
        self._header = pb.DatasetHeader(
            dataset_id=self.name.removeprefix("datasets/"),
            file_name=file_name,
            format=kind,
            size_bytes=size,
            sha256=digest,
        )

    @property
    def seconds(self) -> float:
        """A deadline that allows a second for each MiB."""
        return SLOW + self._header.size_bytes / SLOWEST

    def is_done(self, found: Dataset) -> bool:
        """Whether the server has it already; else `parts` goes on from where that one stands."""
        same = found.sha256 == self._header.sha256.hex()
        if same and found.state is DatasetState.READY:
            tell(self._progress, found.size_bytes, found.size_bytes)
            return True
        self._header.offset = found.received_bytes if same else 0
        return False

    def parts(self) -> Iterator[pb.UploadDatasetRequest]:
        header = pb.DatasetHeader()
        header.CopyFrom(self._header)
        yield pb.UploadDatasetRequest(header=header)
        at, size = header.offset, header.size_bytes
        tell(self._progress, at, size)
        while at < size and (data := self._read(at)):
            piece = pb.DatasetPiece(data=data, crc32=zlib.crc32(data))
            yield pb.UploadDatasetRequest(piece=piece)
            at += len(data)
            tell(self._progress, at, size)

    def wait_after(self, error: CarouselError) -> float:
        """Seconds to wait before the next attempt; raises the error when there is none.

        Attempts are counted anew when bytes arrived since the last one.
        """
        if error.code not in RESENT and not isinstance(error, UploadDamaged):
            raise error
        if self._header.offset > self._tried:
            self._attempt, self._tried = 0, self._header.offset
        self._attempt += 1
        if self._attempt == ATTEMPTS:
            raise error
        return delay(self._attempt)

    def close(self) -> None:
        with self._lock:
            if self._own:
                self._file.close()

    def _read(self, at: int) -> bytes:
        with self._lock:
            if self._file.closed:
                return b""
            self._file.seek(at)
            return self._file.read(PIECE_BYTES)

    def _measure(self) -> tuple[int, bytes]:
        digest = hashlib.sha256()
        self._file.seek(0)
        while data := self._file.read(_READ_BYTES):
            digest.update(data)
        return self._file.tell(), digest.digest()


def _opened(source: Source) -> tuple[BinaryIO, bool, str]:
    """The file, whether to close it, and its name."""
    if isinstance(source, bytes):
        return io.BytesIO(source), True, ""
    if isinstance(source, str | Path):
        return Path(source).open("rb"), True, Path(source).name
    name = getattr(source, "name", "")
    return source, False, Path(name).name if isinstance(name, str) else ""


def _made_id(file_name: str, digest: bytes) -> str:
    """`readings-3f2a91c0`."""
    stem = re.sub(r"[^a-z0-9]+", "-", Path(file_name).stem.lower()).strip("-")[:_ID_LETTERS]
    return f"{stem or 'data'}-{digest.hex()[:8]}"
