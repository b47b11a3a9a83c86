"""Company: who is alone, and how long the engine waits for more riders before the next turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Sized

WAIT_EACH = 0.0005  # seconds for each message of the last turn: what the event loop needs for one
LONGEST_WAIT = 0.01
FORGET = 16  # turns after which a crowd is about forgotten
QUIET_SECONDS = 0.001  # without a message of anybody else: whoever comes then is alone
# After a step of who has little, rounds of turns rest for so long for this part of what they take:
# the next such step finds the engine and a processor free. Who steps more seldom costs nothing.
MODEST_SECONDS = 0.1
REST, LONGEST_REST = 0.5, 0.001


class Company:
    """Lets the messages of a crowd of callers ride together.

    The engine and the event loop share the interpreter's lock, and a turn costs much more than one
    more rider of it. So after a turn of several messages, when nobody waits, the engine rests until
    as many have come as were here at once lately; but never longer than the event loop would need
    to bring as many as have just left. Who is alone never waits.
    """

    def __init__(self, wake: threading.Event) -> None:
        self.enough = 0  # messages that must be waiting for the engine to be woken
        self._wake = wake
        self._rode = 0
        self._crowd = 0.0
        self._latest, self._latest_time = 0, 0.0  # handle and moment of the last message
        self._modest_until = 0.0

    def is_alone(self, handle: int, now: float) -> bool:
        """Whether a message, of the session of this handle, has nobody to ride with.

        Its caller is the only one who calls, or nobody has for a while. Of the event loop's thread.
        """
        quiet = handle == self._latest or now - self._latest_time > QUIET_SECONDS
        self._latest, self._latest_time = handle, now
        return quiet and not self.enough

    def ride(self, messages: int, waiting: int) -> None:
        """So many rode a turn, while so many came."""
        self._rode += messages
        self._crowd = max(self._rode + waiting, self._crowd * (1 - 1 / FORGET))

    def is_expected(self, waiting: int) -> bool:
        """Whether more are likely to come soon than wait already."""
        if self._rode > 1 and waiting < self._rode:
            return True
        self._rode = 0
        return False

    def expect_modest(self, now: float) -> None:
        """Who has little beside others has come, and may again at any moment."""
        self._modest_until = now + MODEST_SECONDS

    def has_modest(self, now: float) -> bool:
        """Whether such a one has lately; on the clock of time.monotonic."""
        return now < self._modest_until

    def make_way(self, took: float) -> None:
        """Rest a moment after a round of turns that took so long, whoever waits."""
        time.sleep(min(REST * took, LONGEST_REST))

    def gather(self, inbox: Sized) -> None:
        """Rest until enough are waiting, or for as long as they may take.

        Who has not come by then is not waited for the next time.
        """
        rode, self._rode = self._rode, 0
        self.enough = int(self._crowd)
        if not self._wake.wait(min(WAIT_EACH * rode, LONGEST_WAIT)):
            self._crowd = float(len(inbox))
        self.enough = 0
