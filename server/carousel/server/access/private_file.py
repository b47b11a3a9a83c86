"""Files that decide who may call: read only where nobody else can write them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from carousel.server.access.grant import AccessError

MAX_BYTES = 64 * 2**20
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def read_private(file: Path, what: str) -> bytes:
    """The bytes of a file of ours, or of root's, that no other may write. Raises AccessError."""
    try:
        with open(file, "rb", opener=_open) as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise AccessError(f"{what} {file} must be a regular file")
            if found.st_uid not in (0, os.geteuid()):
                raise AccessError(f"{what} {file} must belong to this user or to root")
            if found.st_mode & OTHERS_WRITE:
                mode = stat.S_IMODE(found.st_mode)
                raise AccessError(
                    f"{what} {file} must not be writable by others: its mode is {mode:04o}, and "
                    "0600 is allowed"
                )
            if found.st_size > MAX_BYTES:
                raise AccessError(f"{what} {file} must have at most {MAX_BYTES:,} bytes")
            return stream.read()
    except OSError as error:
        raise AccessError(f"{what} {file} can't be read: {error.strerror}") from None


def stamp(file: Path) -> tuple[int, ...] | None:
    """Something that changes whenever the file does; None where there is none."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for a writer
