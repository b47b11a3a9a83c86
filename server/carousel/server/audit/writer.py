"""The writer: brings what was handed over into the files of its logs, in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from carousel.server.audit.entry import HEAD, Entry, encode
from carousel.server.audit.files import Files, sound_end
from carousel.server.audit.handed import Event, Handed, Placed, by_log
from carousel.server.audit.head import Head
from carousel.server.audit.log import Log, Position
from carousel.server.metrics import Metrics

logger = logging.getLogger("carousel.input_log")

T = TypeVar("T")

INTERVAL = 0.05  # seconds that steps wait for others before they are written together
REST = 9  # times what the last writing took: of many sessions, more steps are written at once
LONGEST = 1.0


@dataclass(slots=True)
class Ask:
    """A function to be run when all that was handed over before is written."""

    function: Callable[[], Any]
    future: Future[Any]

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return  # whoever asked has gone
        try:
            self.future.set_result(self.function())
        except Exception as error:
            self.future.set_exception(error)


class Writer:
    """Writes entries behind: within about INTERVAL, or at once when somebody asks.

    When writing takes longer than that, it is done less often, though every LONGEST seconds. A log
    that can't be written is given up, and `on_broken` called with it; the others go on.
    """

    def __init__(self, root: Path, metrics: Metrics) -> None:
        self.on_broken: Callable[[Log, str], None] = lambda log, why: None
        self._metrics = metrics.audit
        self._files = Files(root)
        self._logs: dict[int, Log] = {}
        self._items: deque[Handed | Ask] = deque()
        self._handed = self._written = 0  # bytes; each is changed by one thread
        self._work, self._urgent = threading.Event(), threading.Event()
        self._stopping = False
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
        """Hand something over; only for the engine's thread."""
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
        """Return when all that was handed over of durable sessions is on the disk, or given up."""
        self.ask(self._sync).result()

    # In the thread

    def _run(self) -> None:
        seconds = 0.0
        while not self._stopping or self._items:
            self._work.wait()
            self._urgent.wait(min(max(INTERVAL, REST * seconds), LONGEST))
            self._work.clear()
            self._urgent.clear()
            begin = time.monotonic()
            try:
                self._write_all()
            except Exception as error:  # a bug must not end the thread: the store waits for it
                for log in list(self._logs.values()):
                    self._give_up(log, error)
            seconds = time.monotonic() - begin
        self._sync()
        self._files.close_all()

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
        begin, written = time.monotonic(), 0
        for item in items:
            if isinstance(item, Event) and item.head is not None:
                self._logs[item.log.number] = item.log
        for number, parts in by_log(items).items():
            log = self._logs.get(number)
            if log is not None:
                written += self._write_parts(log, parts)
        self._metrics.bytes.inc(written)
        self._metrics.write_seconds.observe(time.monotonic() - begin)
        self._written += sum(item.bytes for item in items)

    def _write_parts(self, log: Log, parts: Sequence[Placed]) -> int:
        """Bring what came for one log into its file; how many bytes that were."""
        try:
            before, data = log.hash, []
            for _, part in parts:
                for entry in (part,) if isinstance(part, Entry) else self._entries(log, part):
                    made, before = encode(entry, before)
                    data.append(made)
            joined = b"".join(data)
            self._files.append(log, joined)
        except Exception as error:
            self._give_up(log, error)
            return 0
        log.hash = before
        if log.over:
            self._logs.pop(log.number, None)
            self._files.let_go(log)
        return len(joined)

    def _entries(self, log: Log, part: Event) -> list[Entry]:
        made = []
        if part.head is not None:
            head = self._begin(log, part.head) if log.path is None else part.head
            moment = 0.0 if part.entry is None else part.entry.time
            made.append(Entry(HEAD, 0, moment, head.to_payload()))
        if part.entry is not None:
            made.append(part.entry)
        log.over |= part.leaves
        log.unwanted |= part.discards
        return made

    def _begin(self, log: Log, head: Head) -> Head:
        """Make the file of a log, and say what it goes on from."""
        former = self._files.begin(log)
        if former is None:
            return head
        return replace(head, part=former.number + 1, continues=sound_end(former.path))

    def _sync(self) -> None:
        for log, error in self._files.sync().items():
            self._give_up(log, error)

    def _give_up(self, log: Log, error: Exception) -> None:
        if not isinstance(error, OSError):
            logger.error("an audit log could not be written", exc_info=error)
        log.broken = True
        self._logs.pop(log.number, None)
        self._files.close(log)
        self.on_broken(log, str(error) or type(error).__name__)
