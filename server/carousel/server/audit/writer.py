"""The writer: brings what was handed over into the files of its logs, in a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from carousel.server.audit import folder
from carousel.server.audit.entry import HEAD, NOTHING, Damage, Entry, Torn, encode, read
from carousel.server.audit.handed import Event, Handed, by_log
from carousel.server.audit.head import Head
from carousel.server.audit.log import Log, Position
from carousel.server.metrics import Metrics

logger = logging.getLogger("carousel.input_log")

T = TypeVar("T")

INTERVAL = 0.05  # seconds that steps wait for others before they are written together
MOST_OPEN = 256  # files


@dataclass(slots=True)
class Ask:
    """A function to be run when all that was handed over before is written."""

    function: Callable[[], Any]
    future: Future[Any]

    def run(self) -> None:
        try:
            self.future.set_result(self.function())
        except Exception as error:
            self.future.set_exception(error)


class Writer:
    """Writes entries behind: within about INTERVAL, or at once when somebody asks.

    `put` and `ask` are for any thread. A log that can't be written is given up, and `on_broken`
    called with it; the others go on.
    """

    def __init__(self, root: Path, metrics: Metrics) -> None:
        self.root = root
        self.on_broken: Callable[[Log, str], None] = lambda log, why: None
        self._metrics = metrics.audit
        self._items: deque[Handed | Ask] = deque()
        self._handed = self._written = 0  # bytes; each is one thread's
        self._work, self._urgent = threading.Event(), threading.Event()
        self._stopping = False
        self._logs: dict[int, Log] = {}
        self._open: OrderedDict[int, int] = OrderedDict()  # descriptors by log number
        self._unsynced: set[Log] = set()  # of durable sessions
        self._thread = threading.Thread(target=self._run, name="carousel-input-log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, and end."""
        self._stopping = True
        self._urgent.set()
        self._work.set()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def backlog(self) -> int:
        """Bytes that wait."""
        return self._handed - self._written

    def put(self, item: Handed) -> None:
        """Only for the engine's thread."""
        self._handed += item.bytes
        self._items.append(item)
        if not self._work.is_set():
            self._work.set()

    def ask(self, function: Callable[[], T]) -> Future[T]:
        """Run a function in the writer's thread, when all that was handed over is written."""
        future: Future[T] = Future()
        self._items.append(Ask(function, future))
        self._urgent.set()
        self._work.set()
        return future

    def position(self, log: Log | None) -> Future[Position | None]:
        """How far a log has come; None when nothing is being written."""

        def look() -> Position | None:
            if log is None or log.path is None or log.over or log.broken:
                return None
            return Position(log.path, log.size, log.hash)

        return self.ask(look)

    def secure(self) -> None:
        """Return when all that was handed over of durable sessions is on the disk."""
        self.ask(self._sync).result()

    # In the thread

    def _run(self) -> None:
        while not self._stopping or self._items:
            self._work.wait()
            self._urgent.wait(INTERVAL)
            self._work.clear()
            self._urgent.clear()
            self._write_all()
        self._sync()
        while self._open:
            os.close(self._open.popitem()[1])

    def _write_all(self) -> None:
        some: list[Handed] = []
        while self._items:
            item = self._items.popleft()
            if isinstance(item, Ask):
                self._write(some)
                some = []
                item.run()
            else:
                some.append(item)
        self._write(some)

    def _write(self, items: Sequence[Handed]) -> None:
        if not items:
            return
        begin = time.monotonic()
        for item in items:
            if isinstance(item, Event) and item.head is not None:
                self._logs[item.log.number] = item.log
        for number, parts in by_log(items).items():
            log = self._logs.get(number)
            if log is not None:
                self._write_parts(log, parts)
        self._metrics.write_seconds.observe(time.monotonic() - begin)
        self._written += sum(item.bytes for item in items)

    def _write_parts(self, log: Log, parts: Sequence[Entry | Event]) -> None:
        try:
            if any(isinstance(part, Event) and part.discards for part in parts):
                self._discard(log)
                return
            before, data = log.hash, []
            for part in parts:
                for entry in self._entries(log, part):
                    made, before = encode(entry, before)
                    data.append(made)
            self._append(log, b"".join(data))
            log.hash = before
        except Exception as error:
            self._give_up(log, error)
            return
        if log.over:
            self._let_go(log)

    def _entries(self, log: Log, part: Entry | Event) -> list[Entry]:
        if isinstance(part, Entry):
            return [part]
        made = []
        if part.head is not None:
            head = self._begin(log, part.head) if log.path is None else part.head
            moment = 0.0 if part.entry is None else part.entry.time
            made.append(Entry(HEAD, 0, moment, head.to_payload()))
        if part.entry is not None:
            made.append(part.entry)
        log.over |= part.leaves
        return made

    def _begin(self, log: Log, head: Head) -> Head:
        """Make the file of a log, and say what it goes on from."""
        own = folder.folder_of(self.root, log.session_id)
        own.mkdir(parents=True, exist_ok=True, mode=0o700)
        log.path, former = folder.next_path(own, log.token)
        os.close(os.open(log.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        if log.durable:
            for path in (own, self.root):
                _sync_folder(path)
        if former is None:
            return head
        return replace(head, part=former.number + 1, continues=sound_end(former.path))

    def _append(self, log: Log, data: bytes) -> None:
        if not data:
            return
        descriptor, done = self._descriptor(log), 0
        try:
            while done < len(data):
                done += os.write(descriptor, data[done:])
        except OSError:
            with contextlib.suppress(OSError):  # the torn entry; readers cut it off all the same
                os.ftruncate(descriptor, log.size)
            raise
        log.size += len(data)
        self._metrics.bytes.inc(len(data))
        if log.durable:
            self._unsynced.add(log)

    def _descriptor(self, log: Log) -> int:
        found = self._open.get(log.number)
        if found is not None:
            self._open.move_to_end(log.number)
            return found
        assert log.path is not None
        made = os.open(log.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._open[log.number] = made
        if len(self._open) > MOST_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return made

    def _sync(self) -> None:
        for log in self._unsynced:
            try:
                os.fsync(self._descriptor(log))
            except OSError as error:
                self._give_up(log, error)
            if log.over:
                self._close(log)
        self._unsynced.clear()

    def _let_go(self, log: Log) -> None:
        self._logs.pop(log.number, None)
        if log not in self._unsynced:
            self._close(log)

    def _close(self, log: Log) -> None:
        descriptor = self._open.pop(log.number, None)
        if descriptor is not None:
            os.close(descriptor)

    def _discard(self, log: Log) -> None:
        """Forget the log of a session that nobody ever had."""
        self._let_go(log)
        self._unsynced.discard(log)
        if log.path is not None:
            log.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other logs lie there
                log.path.parent.rmdir()

    def _give_up(self, log: Log, error: Exception) -> None:
        if not isinstance(error, OSError):
            logger.error("an audit log could not be written", exc_info=error)
        log.broken = True
        self._logs.pop(log.number, None)
        self._close(log)
        self.on_broken(log, str(error) or type(error).__name__)


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
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
