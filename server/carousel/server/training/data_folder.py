"""The data folder: where the bytes of datasets and the folders of jobs are.

{root}/home                      an id of this folder, made once
{root}/records.sqlite            the records, unless they are in PostgreSQL
{root}/datasets/{id}/data        the bytes; a tenant's in {root}/datasets/@{tenant}/{id}/data
{root}/jobs/{number}/            see docs/training.md; and corpus/, prepare.json
{root}/scratch/                  folders of what goes on now, removed at its end
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from carousel.errors import InvalidField, StoreUnwritable
from carousel.server import beneath
from carousel.server.names import path_of
from carousel.server.staging import writing
from carousel.server.training.records import JobRecord

RESERVE = 64 * 1024**2  # bytes that stay free for records and checkpoints
SCRATCH_SECONDS = 3600.0  # after which nobody uses a folder any more


class DataFolder:
    """Paths in the data folder, and of files in the dataset roots. Nothing is made before need."""

    def __init__(self, root: Path, dataset_roots: tuple[Path, ...] = ()) -> None:
        self.root = root.absolute()
        self._roots = dataset_roots
        self._home = ""

    @property
    def home(self) -> str:
        """The folder's id, in records. Raises StoreUnwritable."""
        if not self._home:
            file = self.root / "home"
            with writing():
                self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
                new = self.root / f".home-{secrets.token_hex(8)}"
                new.write_text(secrets.token_hex(8))
                with contextlib.suppress(FileExistsError):
                    os.link(new, file)  # unlike a rename, it never replaces one
                new.unlink()
                self._home = file.read_text()
        return self._home

    def dataset(self, dataset: str) -> Path:
        """The file with a dataset's bytes."""
        return self.root / "datasets" / path_of(dataset) / "data"

    def open_dataset(self, dataset: str) -> BufferedReader:
        """Raises OSError."""
        return beneath.open_below(self.root / "datasets", [*path_of(dataset).parts, "data"])

    def job(self, number: int) -> Path:
        return self.root / "jobs" / str(number)

    def source(self, job: JobRecord) -> BufferedReader:
        """The file that a job learns from, open: whoever reads it reads this one, whatever its name
        leads to by then. Raises InvalidField (a uri that may not be read), OSError.
        """
        return self.open_dataset(job.dataset) if job.dataset else self.open_uri(job.uri)

    def open_uri(self, uri: str) -> BufferedReader:
        """A regular file below one of the dataset roots, by a path that leads nowhere else.

        The path is relative to a root: no '..', no link on the way. Raises InvalidField.
        """
        if not self._roots:
            raise InvalidField(
                "uri can't be used: the server has no dataset_roots", field="job.uri"
            )
        parts = beneath.parts_of(uri)
        if not parts:
            raise InvalidField(
                "uri must be the path of a file below one of the server's dataset_roots, relative "
                f"to it and without '.' and '..', got {uri!r:.200}",
                field="job.uri",
            )
        for root in self._roots:
            with contextlib.suppress(OSError):
                return beneath.open_below(root, parts)
        raise InvalidField(
            f"uri must lead to a file below a dataset root, without links, got {uri!r:.200}",
            field="job.uri",
        )

    def check_room(self, size: int) -> None:
        """Raises StoreUnwritable where so many bytes more do not fit."""
        with writing():
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            free = shutil.disk_usage(self.root).free
        if size + RESERVE > free:
            raise StoreUnwritable(
                f"the data folder has {free:,} bytes free, {size + RESERVE:,} are needed"
            )

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder while the block runs; those that a killed server left long ago go with it.

        Raises StoreUnwritable.
        """
        root = self.root / "scratch"
        with writing():
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder = Path(tempfile.mkdtemp(dir=root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            for other in root.iterdir():
                with contextlib.suppress(OSError):
                    if time.time() - other.stat().st_mtime > SCRATCH_SECONDS:
                        shutil.rmtree(other)

    def remove_dataset(self, dataset: str) -> None:
        shutil.rmtree(self.dataset(dataset).parent, ignore_errors=True)

    def remove_job(self, number: int) -> None:
        shutil.rmtree(self.job(number), ignore_errors=True)
