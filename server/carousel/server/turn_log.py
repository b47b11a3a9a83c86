"""The log of turns: what they came to, told by the engine in a moment, counted when somebody looks.

A turn of one session takes a quarter of a millisecond; to count it at once would be a twentieth of
that. Whatever reads the metrics first counts the turns that were told of since.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from prometheus_client import Metric
from prometheus_client.registry import Collector, CollectorRegistry

if TYPE_CHECKING:
    from carousel.server.metrics import VersionMetrics

MOST = 64  # turns that wait to be counted: so many take a tenth of a millisecond

Origin = Mapping[str, str] | None


class Waiting(Protocol):
    """What rides in a turn: the work of a message."""

    arrived: float
    origin: Origin


class Turn(NamedTuple):
    """What a turn came to; times are on the clock of time.monotonic.

    `arrived` are those of the works that rode with single steps, work i with items[i] of them,
    None: with one each; of a turn of chunks there are none. `origin` is that of the oldest.
    """

    begin: float
    end: float
    computing: float  # seconds
    count: int  # riders
    steps: int
    arrived: Sequence[float]
    items: Sequence[int] | None
    origin: Origin


class TurnLog:
    """Of one model version. The engine's thread tells; whoever reads the metrics counts."""

    def __init__(self, metrics: VersionMetrics) -> None:
        self._metrics = metrics
        self._told: deque[Turn] = deque()
        self._lock = threading.Lock()

    def tell(
        self,
        works: Sequence[Waiting],
        items: Sequence[int] | None,
        count: int,
        steps: int,
        *,
        begin: float,
        computing: float,
        end: float,
    ) -> None:
        """A turn is over; `works` and `items` are as in Turn, but some may have no items."""
        if items is not None:
            works = [work for work, number in zip(works, items, strict=True) if number]
            items = [number for number in items if number]
        arrived, origin = [work.arrived for work in works], None
        if works:
            oldest = works[0] if len(works) == 1 else works[arrived.index(min(arrived))]
            origin = oldest.origin
        self._told.append(Turn(begin, end, computing, count, steps, arrived, items, origin))
        if len(self._told) >= MOST:
            self.count()

    def count(self) -> None:
        """Count what was told of; for any thread."""
        with self._lock:
            turns = [self._told.popleft() for _ in range(len(self._told))]
            if not turns:
                return
            metrics = self._metrics
            begins, ends, counts = np.array([(t.begin, t.end, t.count) for t in turns]).T
            metrics.turn_batch_size.observe_many(counts)
            metrics.turn_duration.observe_many(ends - begins)
            metrics.steps.inc(sum(turn.steps for turn in turns))
            singles = [turn for turn in turns if turn.arrived]
            if singles:
                self._count_singles(singles)

    def _count_singles(self, turns: Sequence[Turn]) -> None:
        """How long single steps waited and took, and which of them may be looked at."""
        metrics = self._metrics
        begins, ends, seconds = np.array([(t.begin, t.end, t.computing) for t in turns]).T
        works = [len(turn.arrived) for turn in turns]
        arrived = np.array(list(itertools.chain.from_iterable(turn.arrived for turn in turns)))
        items = None
        if any(turn.items is not None for turn in turns):
            each = (turn.items or [1] * len(turn.arrived) for turn in turns)
            items = np.array(list(itertools.chain.from_iterable(each)))
        metrics.step_compute.observe_many(seconds, np.array([turn.count for turn in turns]))
        metrics.step_queue.observe_many(begins.repeat(works) - arrived, items)
        metrics.step_duration.observe_many(ends.repeat(works) - arrived, items)
        epoch = time.time() - time.monotonic()
        for turn in turns:
            if turn.origin is not None:
                longest = turn.end - min(turn.arrived)
                metrics.step_duration.remember(longest, turn.origin, turn.end + epoch)


class Uncounted(Collector):
    """Counts all turns before anything else is read: it must be the first of a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.logs: list[TurnLog] = []
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        for log in tuple(self.logs):
            log.count()
        return iter(())
