"""The reins: who holds them changes sessions, arenas and queues."""

from __future__ import annotations

import threading
import time

LONGEST_WAIT = 0.003  # seconds that whoever asks waits for a turn to end
VAIN_SECONDS = 0.1  # after a wait that was in vain, in which nobody waits


class Reins:
    """A lock that another thread may ask its holder for.

    The engine's thread needs the interpreter's lock many times a turn, and a busy event loop gives
    that up only when it must: what the event loop waits for would take the engine several times as
    long as when it stands still. So it does, for a step that has waited for nothing yet.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answered = threading.Event()
        self._vain_until = 0.0  # on the clock of time.monotonic
        self.asked = False

    def acquire(self) -> None:
        self._lock.acquire()

    def release(self) -> None:
        self._lock.release()

    def take(self) -> bool:
        """Take them if nobody holds them."""
        return self._lock.acquire(blocking=False)

    def ask(self) -> bool:
        """Take them when their holder can do without; gives whether it could soon."""
        if time.monotonic() < self._vain_until:
            return False
        self.asked = True
        is_given = self._lock.acquire(timeout=LONGEST_WAIT)
        self.asked = False
        self._answered.set()
        if not is_given:
            self._vain_until = time.monotonic() + VAIN_SECONDS
        return is_given

    def lend(self) -> None:
        """Let whoever asked have them, until it lets go of them."""
        self._answered.clear()
        if self.asked:
            self._lock.release()
            self._answered.wait(LONGEST_WAIT)
            self._lock.acquire()
