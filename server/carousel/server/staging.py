"""Staging: a new version while it comes into the store, in a folder that nobody else looks at."""

from __future__ import annotations

import contextlib
import fcntl
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

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Staging:
    """A folder in the store's root, removed when its `with` block ends unless it was renamed.

    It is locked for as long as it is in use, so that another server on the same store, starting
    up and sweeping, does not take it for what a crash left.
    """

    def __init__(self, root: Path) -> None:
        with writing():
            root.mkdir(parents=True, exist_ok=True)
            self.folder = root / f"{PREFIX}{secrets.token_hex(8)}"
            self.folder.mkdir()
            self._lock = os.open(self.folder, _FOLDER)
            fcntl.flock(self._lock, fcntl.LOCK_EX)

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
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

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


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Nobody else does this in the folder meanwhile, of whatever server. Raises StoreUnwritable."""
    with writing():
        handle = os.open(folder, _FOLDER)
        fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(handle)


def try_lock(folder: Path) -> int | None:
    """What to close to unlock a folder; None while somebody else has it locked, on any server."""
    with writing():
        handle = os.open(folder, _FOLDER)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
    return handle


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
    for folder in root.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # a store that can't be written still serves
            handle = os.open(folder, _FOLDER)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)
