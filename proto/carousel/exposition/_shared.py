"""What is costly to make, for all who ask at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """Makes one thing at a time. Who asks gets what was begun after they asked, so it is never
    older than the question; who waits for the same, by its key, shares it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._next: dict[str, Future[T]] = {}  # not begun

    def value(self, key: str, make: Callable[[], T]) -> T:
        with self._lock:
            first = key not in self._next
            wanted = self._next.setdefault(key, Future())
        if first:
            with self._making:
                with self._lock:
                    del self._next[key]
                try:
                    wanted.set_result(make())
                except BaseException as error:  # whoever waits must not wait forever
                    wanted.set_exception(error)
        return wanted.result()
