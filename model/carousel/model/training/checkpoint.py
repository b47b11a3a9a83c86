"""Moments from which a job can go on: folders that are whole or not there, checked when read."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from carousel.model.training.errors import CheckpointError

MANIFEST = "manifest.json"
BEST = "best"

Warn = Callable[[str], None]


class Checkpoints:
    """The folder `checkpoints` of a job, and its file `best` beside it.

    A checkpoint is made under a name with a dot, brought to the disk and renamed, and goes under
    such a name, so that neither a kill nor a full disk leaves half of one; its manifest has the
    SHA-256 of every file, so that one that was damaged later is found. The newest `keep` stay, and
    the best one.
    """

    def __init__(self, job: Path, keep: int) -> None:
        self.folder = job / "checkpoints"
        self._best, self._keep = job / BEST, keep
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def steps(self) -> list[int]:
        """The steps that there are checkpoints of, the newest last."""
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())

    @property
    def best(self) -> int | None:
        """The step of the best one."""
        return int(self._best.read_text()) if self._best.exists() else None

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / f"{step:08}"

    def draft(self, step: int) -> Path:
        """Where its files are written until `seal`."""
        return self.folder / f".{step:08}.part"

    def seal(self, step: int, *, best: bool) -> int:
        """Make the draft the checkpoint of the step; returns its size in bytes."""
        draft, path = self.draft(step), self.path(step)
        digests = {file.name: _sha256(file) for file in sorted(draft.iterdir())}
        (draft / MANIFEST).write_text(json.dumps(digests, indent=1))
        for file in draft.iterdir():
            sync(file)
        sync(draft)
        if path.exists():  # the job had been here before it rolled back
            self._put_aside(step, "old")
        draft.rename(path)
        sync(self.folder)
        if best:
            self._mark(path.name)
        self._prune()
        return self.size(step)

    def size(self, step: int) -> int:
        """Bytes of the checkpoint of a step."""
        return sum(file.stat().st_size for file in self.path(step).iterdir())

    def _mark(self, name: str) -> None:
        part = self._best.with_name(".best.part")
        part.write_text(name)
        sync(part)
        part.rename(self._best)
        sync(self._best.parent)

    def _prune(self) -> None:
        kept = {*self.steps[-self._keep :], self.best}
        for step in self.steps:
            if step not in kept:
                self._put_aside(step, "old")
        self._clear()

    def _put_aside(self, step: int, why: str) -> None:
        """It is no checkpoint any more. Its name is new: what went before may still be there."""
        self.path(step).rename(self.folder / f".{step:08}.{secrets.token_hex(4)}.{why}")

    def _clear(self) -> None:
        """Remove what is not, or no longer, a checkpoint."""
        for path in self.folder.glob(".*"):
            shutil.rmtree(path, ignore_errors=True)

    def newest(self, warn: Warn) -> int | None:
        """The step of the newest one that is whole; those found damaged are put aside."""
        self._clear()  # what a kill left behind
        for step in reversed(self.steps):
            try:
                self.check(step)
            except CheckpointError as error:
                warn(f"{error}; the one before it is used")
                self._put_aside(step, "damaged")
            else:
                return step
        return None

    def check(self, step: int) -> None:
        """Raise CheckpointError if a file of the checkpoint is not as it was written."""
        path = self.path(step)
        try:
            digests = json.loads((path / MANIFEST).read_text())
            damaged = [name for name, digest in digests.items() if _sha256(path / name) != digest]
        except (OSError, ValueError, AttributeError) as error:
            raise CheckpointError(f"checkpoint {path.name} cannot be read: {error}") from None
        if damaged:
            raise CheckpointError(
                f"checkpoint {path.name} is damaged: {damaged[0]} is not what was written"
            )


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
