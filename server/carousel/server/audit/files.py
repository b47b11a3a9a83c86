"""Files of audit logs: begun, appended to, brought to the disk; few are open at a time."""

from __future__ import annotations

import contextlib
import os
import resource
from collections import OrderedDict
from pathlib import Path

from carousel.server.audit import folder
from carousel.server.audit.entry import NOTHING, Damage, Torn, read
from carousel.server.audit.folder import Part
from carousel.server.audit.log import Log

MOST_OPEN = min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)

WRITE = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC


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
            self._new_folders |= {own, self._root}
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
        while self._new_folders:
            _sync_folder(self._new_folders.pop())
        while self._unsynced:
            log = self._unsynced.pop()
            try:
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


def _sync_folder(path: Path) -> None:
    with contextlib.suppress(OSError):  # it was discarded; what else fails, a log's own sync tells
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
