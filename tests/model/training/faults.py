"""What machines do to a job: damaged checkpoints, and disks that have no room."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DAMAGES = ("flip", "cut", "gone", "manifest")


def damage(checkpoint: Path, how: str, *, at: int = -3) -> None:
    """Spoil the folder of a checkpoint; `at` is the byte that is flipped."""
    file = checkpoint / "weights.safetensors"
    if how == "gone":
        file.unlink()
    elif how == "manifest":
        (checkpoint / "manifest.json").write_text("{")
    else:
        content = bytearray(file.read_bytes())
        content[at] ^= 1
        file.write_bytes(content if how == "flip" else content[:-100])


def set_room(size: int | None, pid: int = 0) -> None:
    """Let a process (0: this one) make no file longer than this; None: as long as it wants.

    To the process this looks like a disk without room, and to nobody else.
    """
    with suppress(ProcessLookupError):
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most if size is None else size, most))


@contextmanager
def no_room(size: int) -> Iterator[None]:
    """For a while this process can make no file longer than `size`."""
    set_room(size, os.getpid())
    try:
        yield
    finally:
        set_room(None, os.getpid())
