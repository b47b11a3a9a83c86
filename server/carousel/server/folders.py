"""Folders of a store, as far as they can be read: what is in them, and how much."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """The real folders in it; none where it can't be read."""
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def bytes_in(folder: Path) -> int:
    total = 0
    with contextlib.suppress(OSError), os.scandir(folder) as found:  # it goes just now
        for entry in found:
            if entry.is_file(follow_symlinks=False):
                total += entry.stat(follow_symlinks=False).st_size
    return total
