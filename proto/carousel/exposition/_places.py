"""Places for connections: few, and whoever is silent has no right to one that another needs."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Hashable


class Places:
    """`count` connections at once, by keys of the caller's.

    Who comes when all are taken gets the place of whoever has said nothing whole for longest,
    and who is cut off for it.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._silent: dict[Hashable, socket.socket] = {}  # duplicates, oldest first
        self._robbed: set[Hashable] = set()
        self._lock = threading.Lock()

    def take(self, key: Hashable, connection: socket.socket) -> bool:
        """False: all are taken by those who are being answered."""
        handle = connection.dup()  # TLS takes the connection itself out of our hands
        with self._lock:
            if self._free:
                self._free -= 1
            elif self._silent:
                self._rob(next(iter(self._silent)))
            else:
                handle.close()
                return False
            self._silent[key] = handle
            return True

    def heard(self, key: Hashable) -> None:
        """Its request has come: now nobody takes its place."""
        with self._lock:
            self._listened(key)

    def leave(self, key: Hashable) -> None:
        with self._lock:
            self._listened(key)
            if key in self._robbed:
                self._robbed.remove(key)
            else:
                self._free += 1

    def _rob(self, key: Hashable) -> None:
        with contextlib.suppress(OSError):  # it has gone by itself
            self._silent[key].shutdown(socket.SHUT_RDWR)
        self._listened(key)
        self._robbed.add(key)

    def _listened(self, key: Hashable) -> None:
        handle = self._silent.pop(key, None)
        if handle is not None:
            handle.close()
