"""Files of audit logs: begun, appended to, brought to the disk; few are open at a time."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from carousel.server.audit import folder
from carousel.server.audit.entry import NOTHING, Damage, Torn, read
from carousel.server.audit.folder import Part
from carousel.server.audit.log import Log

MOST_OPEN = min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)

FEW = 8  # for more, one sync of the whole file system is faster than one for each file

WRITE = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC


_LIBC = ctypes.CDLL(None)


class Files:
    """Only for the writer's thread. Every method but `close` and `discard` raises OSError."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: OrderedDict[int, int] = OrderedDict()  # descriptors by log number
        self._unsynced: set[Log] = set()  # of durable sessions, as are these:
        self._new_folders: set[Path] = set()

    def begin(self, log: Log) -> Part | None:
        """Make the file of a log; the part that it goes on from, if any."""
        own = folder.folder_of(self._root, log.session_id)
        own.mkdir(parents=True, exist_ok=True, mode=0o700)
        log.path, former = folder.next_path(own, log.token)
        self._keep(log, os.open(log.path, WRITE | os.O_CREAT | os.O_EXCL, 0o600))
        if log.durable:
            self._new_folders |= {own, own.parent, self._root}
        return former

    def append(self, log: Log, data: bytes) -> None:
        """All of it or nothing."""
        if not data:
            return
        descriptor, done = self._descriptor(log), 0
        try:
            while done < len(data):
                done += os.write(descriptor, data[done:])
        except OSError:
            with contextlib.suppress(OSError):  # readers cut off what is torn all the same
                os.ftruncate(descriptor, log.size)
            raise
        log.size += len(data)
        if log.durable:
            self._unsynced.add(log)

    def sync(self) -> dict[Log, OSError]:
        """Bring what was written of durable sessions to the disk; the logs that could not be."""
        failed: dict[Log, OSError] = {}
        done = len(self._unsynced) > FEW and sync_all(self._root)
        while self._new_folders:
            own = self._new_folders.pop()
            if not done:
                sync_folder(own)
        while self._unsynced:
            log = self._unsynced.pop()
            try:
                if not done:
                    os.fsync(self._descriptor(log))
            except OSError as error:
                failed[log] = error
            if log.over:
                self.close(log)
        return failed

    def let_go(self, log: Log) -> None:
        """Nothing more will be appended."""
        if log.unwanted:
            self._discard(log)
        elif log not in self._unsynced:
            self.close(log)

    def _discard(self, log: Log) -> None:
        self.close(log)
        self._unsynced.discard(log)
        if log.path is not None:
            log.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other logs lie there
                log.path.parent.rmdir()

    def close(self, log: Log) -> None:
        descriptor = self._open.pop(log.number, None)
        if descriptor is not None:
            os.close(descriptor)

    def close_all(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def _descriptor(self, log: Log) -> int:
        found = self._open.get(log.number)
        if found is not None:
            self._open.move_to_end(log.number)
            return found
        assert log.path is not None
        return self._keep(log, os.open(log.path, WRITE))

    def _keep(self, log: Log, descriptor: int) -> int:
        self._open[log.number] = descriptor
        if len(self._open) > MOST_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return descriptor


def sound_end(path: Path) -> tuple[int, str]:
    """How many bytes of a file hold, and the hash there. What a crash cut off does not count.

    What was changed does: a reader will find it.
    """
    size, own = 0, NOTHING
    with path.open("rb") as file:
        try:
            for placed in read(file):
                size, own = placed.end, placed.hash
        except Torn:
            pass
        except Damage:
            size = path.stat().st_size
    return size, own.hex()


def sync_all(path: Path) -> bool:
    """Bring everything of the file system that has this folder to the disk; whether it could."""
    try:
        with _opened(path) as descriptor:
            return bool(_LIBC.syncfs(descriptor) == 0)
    except (AttributeError, OSError):  # not on every system
        return False


def sync_folder(path: Path) -> None:
    with contextlib.suppress(OSError), _opened(path) as descriptor:  # unless it was discarded
        os.fsync(descriptor)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
