"""The store's writer: a thread that makes records of groups and writes them, one at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

from carousel.errors import StoreUnavailable
from carousel.server.groups import Group, batch_of
from carousel.server.stores import StateStore

log = logging.getLogger("carousel.store")

FIRST_DELAY, LONGEST_DELAY = 0.1, 2.0  # seconds between attempts


class StoreWriter:
    """Writes a group again, the very same, until the store has answered.

    `before` is called before each group is written, `failed` after an attempt that failed, and
    `written` with the places that the store refused: all in the writer's thread.
    """

    def __init__(
        self,
        store: StateStore,
        *,
        before: Callable[[], None],
        failed: Callable[[StoreUnavailable], None],
        written: Callable[[Group, frozenset[int]], None],
    ) -> None:
        self._store = store
        self._before = before
        self._failed = failed
        self._written = written
        self._groups: SimpleQueue[Group | None] = SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="carousel-store", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, group: Group) -> None:
        self._groups.put(group)

    def stop(self) -> None:
        """End the thread; a group that the store does not take is given up."""
        self._stopping.set()
        self._groups.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while (group := self._groups.get()) is not None:
            self._before()
            self._write(group)
        self._store.close()

    def _write(self, group: Group) -> None:
        delay, batch = FIRST_DELAY, None
        while not self._stopping.is_set():
            try:
                batch = batch or batch_of(group)
                refused = self._store.write(batch)
            except Exception as error:
                self._failed(_as_store_error(error))
                self._stopping.wait(delay)
                delay = min(2 * delay, LONGEST_DELAY)
            else:
                self._written(group, frozenset(refused))
                return


def _as_store_error(error: Exception) -> StoreUnavailable:
    if isinstance(error, StoreUnavailable):
        return error
    # A bug: the server must not go down with it.
    log.error("sessions could not be written", exc_info=error)
    return StoreUnavailable(f"a fault of the server: {type(error).__name__}")
