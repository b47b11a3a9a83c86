"""Transfers: a model's folder on its way to the server, and back; alike for both clients."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from carousel.client._names import parent_name
from carousel.errors import UploadDamaged
from carousel.v1 import model_service_pb2 as pb

UPLOAD = "carousel.v1.ModelService/UploadModelVersion"
EXPORT = "carousel.v1.ModelService/ExportModelVersion"

CONFIG, WEIGHTS = "config.json", "weights.safetensors"
CARD, BASELINE = "README.md", "baseline.json"

PIECE_BYTES = 2**20
SLOWEST = 2**20
"""Bytes in a second: what a transfer's deadline allows for."""

Progress = Callable[[int, int], object]
"""Told the bytes that are through, and all of them."""

_LOG = logging.getLogger("carousel.client")


class Upload:
    """A folder with config.json, weights.safetensors and perhaps README.md and baseline.json."""

    def __init__(
        self,
        folder: str | Path,
        *,
        model: str,
        version: int,
        validate_only: bool,
        request_id: str | None,
        progress: Progress | None,
    ) -> None:
        self._weights = Path(folder) / WEIGHTS
        self._progress = progress
        self.size = self._weights.stat().st_size
        self._header = pb.UploadHeader(
            parent=parent_name(model),
            version=version,
            config_json=(Path(folder) / CONFIG).read_text(),
            card=_text(Path(folder) / CARD),
            baseline_json=_text(Path(folder) / BASELINE),
            weights_bytes=self.size,
            weights_sha256=_digest(self._weights),
            validate_only=validate_only,
            request_id=request_id or uuid.uuid4().hex,
        )

    def parts(self) -> Iterator[pb.UploadModelVersionRequest]:
        yield pb.UploadModelVersionRequest(header=self._header)
        sent = 0
        with self._weights.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield pb.UploadModelVersionRequest(data=piece)
                sent += len(piece)
                tell(self._progress, sent, self.size)


class Export:
    """A folder that comes into being all at once, when everything arrived and is what it was.

    Raises FileExistsError for a folder that is not empty.
    """

    def __init__(self, folder: str | Path, *, progress: Progress | None) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise FileExistsError(f"{self.folder} exists and is not an empty folder")
        self._progress = progress
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._half_done = Path(tempfile.mkdtemp(prefix=".carousel-", dir=self.folder.parent))
        self._file = (self._half_done / WEIGHTS).open("wb")
        self._header = pb.UploadHeader()

    def put(self, part: pb.ExportModelVersionResponse) -> None:
        if part.HasField("header"):
            self._header = part.header
            return
        self._file.write(part.data)
        tell(self._progress, self._file.tell(), self._header.weights_bytes)

    def finish(self) -> Path:
        """Check, and put into place. Raises UploadDamaged when bytes were lost on the way."""
        self._file.close()
        if _digest(self._half_done / WEIGHTS) != self._header.weights_sha256:
            raise UploadDamaged("the weights that arrived are not those that were announced")
        (self._half_done / CONFIG).write_text(self._header.config_json)
        for name, text in ((CARD, self._header.card), (BASELINE, self._header.baseline_json)):
            if text:
                (self._half_done / name).write_text(text)
        self._half_done.chmod(0o755)
        self._half_done.rename(self.folder)
        return self.folder

    def close(self) -> None:
        """Leave nothing half done behind."""
        self._file.close()
        shutil.rmtree(self._half_done, ignore_errors=True)


def tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is None:
        return
    try:
        progress(done, total)
    except Exception:
        _LOG.exception("progress failed")


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
