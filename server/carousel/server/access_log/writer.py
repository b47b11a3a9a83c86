"""The thread that writes the access log, so that no call waits for a disk."""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from typing import Any

from carousel.server.access_log.metrics import AccessLogMetrics
from carousel.server.access_log.rotating_file import RotatingFile

log = logging.getLogger("carousel.access_log")

WAITING = 10_000  # lines; above it they are lost and counted, rather than held in memory

Entry = dict[str, Any]


class Writer:
    """Takes entries from any thread, in the order in which they are to stand.

    What the file does not take is lost and counted; the log of the server says once that it
    begins, and once that it is over. Serving goes on.
    """

    def __init__(
        self, file: RotatingFile, metrics: AccessLogMetrics, *, waiting: int = WAITING
    ) -> None:
        self._file = file
        self._metrics = metrics
        self._most = waiting
        self._waiting: deque[Entry] = deque()
        self._news = threading.Condition()
        self._ending = False
        self._lost = 0  # since the file took something
        self._thread = threading.Thread(target=self._run, name="carousel-access-log", daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        with self._news:
            if len(self._waiting) >= self._most:
                self._metrics.lost_in_queue.inc()
                return
            self._waiting.append(entry)
            self._news.notify()

    def close(self) -> None:
        """Write what waits, and let go of the file."""
        with self._news:
            self._ending = True
            self._news.notify()
        self._thread.join()
        self._file.close()

    def _run(self) -> None:
        while entries := self._take():
            lines = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
            try:
                self._file.write(lines)
            except OSError as error:
                self._trouble(error, len(entries))
            else:
                self._well(len(entries))

    def _take(self) -> list[Entry]:
        """What waits, once there is something; nothing at the end."""
        with self._news:
            self._news.wait_for(lambda: self._waiting or self._ending)
            entries = list(self._waiting)
            self._waiting.clear()
            return entries

    def _trouble(self, error: OSError, count: int) -> None:
        if not self._lost:
            log.error("%s can't be written, lines are lost: %s", self._file.path, error.strerror)
        self._lost += count
        self._metrics.lost_at_file.inc(count)

    def _well(self, count: int) -> None:
        if self._lost:
            log.warning("%s is written again; %d lines were lost", self._file.path, self._lost)
            self._lost = 0
        self._metrics.written.inc(count)
