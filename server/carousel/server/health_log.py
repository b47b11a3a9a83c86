"""The health log: a line for what a rule did to a session, as long as there are not too many."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from carousel.server.state_health import Touch

log = logging.getLogger("carousel.health")

LINES, SECONDS = 10, 10.0


class HealthLog:
    """At most so many lines in so many seconds, of one version; how many were left out is told."""

    def __init__(self, version_name: str) -> None:
        self._version = version_name
        self._begin = -SECONDS
        self._lines = 0
        self._left_out = 0

    def tell(self, touches: Iterable[Touch], name: Callable[[int], str]) -> None:
        """`name` is that of a slot."""
        now = time.monotonic()
        if now - self._begin >= SECONDS:
            self._begin, self._lines = now, 0
        for touch in touches:
            if self._lines < LINES:
                self._lines += 1
                self._say(touch, name(touch.slot))
            else:
                self._left_out += 1

    def _say(self, touch: Touch, name: str) -> None:
        rule = touch.rule
        log.warning(
            "state of %s: %s after step %d, %s was %.6g",
            name,
            rule.action,
            touch.step_index,
            rule.metric,
            touch.value,
            extra={
                "version": self._version,
                "threshold": rule.threshold,
                "left_out": self._left_out,
            },
        )
        self._left_out = 0
