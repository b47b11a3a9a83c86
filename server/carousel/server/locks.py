"""Locks in a store that all servers on it see, and that end with the process that has them.

They are of files: over NFS `flock` of a folder is known to the one machine only, and an exclusive
one needs a file that is open for writing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from carousel.errors import StoreUnwritable

LOCK = ".lock"  # of the folder that it is in
LOOK_SECONDS = 0.01
WAIT_SECONDS = 10.0

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


def try_lock(file: Path) -> int | None:
    """What to close to unlock a file; None while somebody else has it locked, on any server.

    It is made when there is none. Raises OSError.
    """
    handle = os.open(file, _FLAGS, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Nobody else does this in the folder meanwhile, of whatever server.

    Raises OSError, StoreUnwritable (somebody else does, for long).
    """
    give_up = time.monotonic() + WAIT_SECONDS
    while (handle := try_lock(folder / LOCK)) is None:
        if time.monotonic() >= give_up:
            raise StoreUnwritable(
                f"others have been changing models/{folder.name} for {WAIT_SECONDS:g} s, which "
                "takes a moment: try again; if that lasts, a server on the same store is stopped"
            )
        time.sleep(LOOK_SECONDS)
    try:
        yield
    finally:
        os.close(handle)
