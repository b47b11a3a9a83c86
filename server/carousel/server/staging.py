"""Staging: a new version while it comes into the store, in a folder that nobody else looks at."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

from carousel.errors import ImportRefused, StoreUnwritable, WeightsInvalid
from carousel.model import BASELINE
from carousel.server import beneath
from carousel.server.folders import entries_of
from carousel.server.locks import LOCK, try_lock
from carousel.server.version import (
    CARD,
    CONFIG,
    MAX_BASELINE_BYTES,
    MAX_CARD_BYTES,
    MAX_CONFIG_BYTES,
    PROMOTED,
    WEIGHTS,
    max_weights_bytes,
    read_config,
)

PREFIX = ".staging-"
# A version's files, with their largest sizes.
FILES = {
    CONFIG: MAX_CONFIG_BYTES,
    CARD: MAX_CARD_BYTES,
    BASELINE: MAX_BASELINE_BYTES,
    WEIGHTS: None,
}


class Staging:
    """A folder below the store's root, removed when its `with` block ends unless it was renamed.

    Beside it lies a lock for as long as it is in use, so that another server on the same store,
    starting up and sweeping, does not take it for what a crash left.
    """

    def __init__(self, root: Path) -> None:
        self._place = root / f"{PREFIX}{secrets.token_hex(8)}"
        self.folder = self._place / "new"
        self._lock: int | None = None
        try:
            with writing():
                root.mkdir(parents=True, exist_ok=True)
                self._place.mkdir()
                self._lock = try_lock(self._place / LOCK)
                self.folder.mkdir()
        except StoreUnwritable:
            self.discard()
            raise

    @classmethod
    def of(cls, root: Path, source: int) -> Self:
        """A copy of the model in an open folder. Raises ImportRefused, StoreUnwritable."""
        staging = cls(root)
        try:
            staging._copy(source)
        except BaseException:
            staging.discard()
            raise
        return staging

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def discard(self) -> None:
        """Remove the folder, if it is still there. Harmless when repeated."""
        if self._lock is not None:  # first: over NFS what is open keeps its folder
            os.close(self._lock)
            self._lock = None
        shutil.rmtree(self._place, ignore_errors=True)

    def write_text(self, config_json: str, *, card: str = "", baseline_json: str = "") -> None:
        """Write config.json and, unless they are empty, README.md and baseline.json."""
        texts = {CONFIG: config_json, CARD: card, BASELINE: baseline_json}
        with writing():
            for name, text in texts.items():
                if text:
                    (self.folder / name).write_bytes(text.encode())

    def mark_promoted(self) -> None:
        """Say that training made it."""
        with writing():
            (self.folder / PROMOTED).touch()

    def replace_json(self, file: Path, value: object) -> None:
        """Write a file of JSON here and move it to its place: all of it or nothing."""
        with writing():
            made = self.folder / file.name
            text = json.dumps(value, sort_keys=True, indent=2)
            made.write_text(f"{text}\n", encoding="utf-8")
            sync(made)
            os.replace(made, file)
            sync(file.parent)

    def open_weights(self) -> BinaryIO:
        with writing():
            return (self.folder / WEIGHTS).open("xb")

    def _copy(self, source: int) -> None:
        for name, limit in FILES.items():
            try:
                file = beneath.open_file(source, name)
            except FileNotFoundError:
                if name in (CARD, BASELINE):
                    continue
                raise ImportRefused(f"the folder has no {name}") from None
            except OSError as error:
                raise ImportRefused(f"{name} can't be read: {error.strerror}") from None
            with file, writing(), (self.folder / name).open("xb") as copy:
                if limit is None:  # the config came before
                    text = (self.folder / CONFIG).read_text(encoding="utf-8", errors="replace")
                    limit = max_weights_bytes(read_config(text))
                size = os.fstat(file.fileno()).st_size
                if size > limit:
                    raise WeightsInvalid(f"{name} must have at most {limit:,} bytes, got {size:,}")
                shutil.copyfileobj(file, copy, 1024**2)

    def sync(self) -> None:
        """Wait until all of it is on the disk."""
        with writing():
            for file in self.folder.iterdir():
                sync(file)
            sync(self.folder)


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Tell a failure of the file system as what it means to a caller."""
    try:
        yield
    except OSError as error:
        raise StoreUnwritable(
            f"the server can't write to its model store: {error.strerror or error}"
        ) from error


def sync(path: Path) -> None:
    """fsync a file, or a folder (its entries)."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def open_folder(root: Path, path: str) -> Iterator[int]:
    """Open a folder below the root; no part of the path may lead out. Raises ImportRefused."""
    parts = beneath.parts_of(path)
    if not parts:
        raise ImportRefused(
            "path must name a folder below the server's import_root, relative to it and "
            f"without '.' and '..', got {path!r:.200}",
            field="path",
        )
    try:
        handle = beneath.open_folder(root, parts)
    except OSError as error:
        raise ImportRefused(
            f"path must lead to a folder without links, got {path!r:.200}: {error.strerror}",
            field="path",
        ) from None
    try:
        yield handle
    finally:
        os.close(handle)


def sweep(root: Path) -> None:
    """Remove what a crash left: staging folders that nobody holds locked."""
    for place in (Path(e.path) for e in entries_of(root) if e.name.startswith(PREFIX)):
        with contextlib.suppress(OSError):  # a store that can't be written still serves
            if (lock := try_lock(place / LOCK)) is not None:
                os.close(lock)
                shutil.rmtree(place, ignore_errors=True)
