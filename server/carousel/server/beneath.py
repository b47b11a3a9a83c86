"""Files beneath a root, opened part by part: no link, no device, nothing exchanged in between."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

MAX_PATH = 4096  # characters

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a named pipe would wait for its writer for ever.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def parts_of(path: str) -> list[str]:
    """The parts of a path that stays below where it begins; of any other there are none."""
    parts = path.split("/") if len(path) <= MAX_PATH else [""]
    return [] if any(part in ("", ".", "..") or "\0" in part for part in parts) else parts


def open_folder(root: Path, parts: Iterable[str]) -> int:
    """The descriptor of a folder below the root, which alone may be a link. Raises OSError."""
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in parts:
        try:
            below = os.open(part, _FOLDER, dir_fd=handle)
        finally:
            os.close(handle)
        handle = below
    return handle


def open_file(folder: int, name: str) -> BufferedReader:
    """A regular file in an open folder. Raises OSError."""
    handle = os.open(name, _FILE, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(0, "it is not a regular file")
    return os.fdopen(handle, "rb")


def open_below(root: Path, parts: list[str]) -> BufferedReader:
    """A regular file below the root. Raises OSError."""
    folder = open_folder(root, parts[:-1])
    try:
        return open_file(folder, parts[-1])
    finally:
        os.close(folder)


def path_of(file: BinaryIO) -> Path:
    """A path to the open file itself, wherever its name leads by now; this process's alone."""
    return Path(f"/proc/self/fd/{file.fileno()}")
