"""The log of turns: what they came to, told by the engine in a moment, counted when somebody looks.

A turn of one session takes a quarter of a millisecond; to count it at once would be a twentieth of
that. Whatever reads the metrics first counts the turns that were told of since.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from prometheus_client import Metric
from prometheus_client.registry import Collector, CollectorRegistry

if TYPE_CHECKING:
    from carousel.server.metrics import VersionMetrics

# What may wait to be counted, in works; a turn is worth 7 more: 128 turns of one work, or 14 of 64.
# To count so much takes a tenth of a millisecond.
MOST, TURN = 1024, 7

Origin = Mapping[str, str] | None
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Waiting(Protocol):
    """What rides in a turn: the work of a message."""

    arrived: float
    origin: Origin


# What a turn came to: when it began and ended, seconds of computing, riders, steps. Then, of single
# steps: when the oldest work came and its origin; and, where there are several works, when each
# came, and how many items of each rode (None: one each). Times are those of time.monotonic.
Turn = tuple[
    float,
    float,
    float,
    int,
    int,
    float | None,
    Origin,
    Sequence[float] | None,
    Sequence[int] | None,
]


class TurnLog:
    """Of one model version. The engine's thread tells; whoever reads the metrics counts."""

    def __init__(self, metrics: VersionMetrics) -> None:
        self._metrics = metrics
        self._told: deque[Turn] = deque()
        self._works = 0  # since the engine counted
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
        """A turn is over. `works` have `items` in it, None: one each; those of chunks are none."""
        oldest, origin, arrived = None, None, None
        if len(works) == 1:
            oldest, origin, items = works[0].arrived, works[0].origin if count else None, None
        elif works:
            if items is not None:
                works = [work for work, number in zip(works, items, strict=True) if number]
                items = [number for number in items if number]
            arrived = [work.arrived for work in works]
            oldest = min(arrived, default=None)
            origin = works[arrived.index(oldest)].origin if oldest is not None else None
        self._told.append((begin, end, computing, count, steps, oldest, origin, arrived, items))
        self._works += TURN + len(works)
        if self._works >= MOST:
            self._works = 0
            self.count()

    def count(self) -> None:
        """Count what was told of; for any thread."""
        with self._lock:
            turns = [self._told.popleft() for _ in range(len(self._told))]
            if not turns:
                return
            begins, ends, _, counts, steps, *_ = zip(*turns, strict=True)
            self._metrics.turn_batch_size.observe_many(np.array(counts, np.float64))
            self._metrics.turn_duration.observe_many(np.array(ends) - np.array(begins))
            self._metrics.steps.inc(sum(steps))
            singles = [turn for turn in turns if turn[5] is not None]
            if singles:
                self._count_singles(singles)

    def _count_singles(self, turns: Sequence[Turn]) -> None:
        """How long single steps waited and took, and which of them may be looked at."""
        metrics = self._metrics
        columns = tuple(zip(*turns, strict=True))
        begins, ends, seconds, counts, oldest = (np.array(columns[n]) for n in (0, 1, 2, 3, 5))
        metrics.step_compute.observe_many(seconds, counts)
        longest, arrived, times = ends - oldest, oldest, counts
        if any(columns[7]):
            lengths = [len(each) if each else 1 for each in columns[7]]
            begins, ends = begins.repeat(lengths), ends.repeat(lengths)
            arrived, times = _flat(turns)
        metrics.step_queue.observe_many(begins - arrived, times)
        metrics.step_duration.observe_many(ends - arrived, times)
        self._remember(longest, columns[6], columns[1])

    def _remember(self, seconds: Floats, origins: Sequence[Origin], ends: Sequence[float]) -> None:
        """Of the slowest step of each turn, the latest in its bucket can be found by its origin."""
        child, epoch = self._metrics.step_duration, time.time() - time.monotonic()
        known = [number for number, origin in enumerate(origins) if origin is not None]
        latest = dict(zip(child.bounds.searchsorted(seconds[known]).tolist(), known, strict=True))
        for number in latest.values():
            origin = origins[number]
            assert origin is not None
            child.remember(float(seconds[number]), origin, ends[number] + epoch)


def _flat(turns: Sequence[Turn]) -> tuple[Floats, Ints]:
    """When each work of these turns came, and how many items of it rode."""
    arrived, times = list[float | None](), list[int]()
    for _, _, _, count, _, oldest, _, each, items in turns:
        arrived += each or [oldest]
        times += (items or [1] * len(each)) if each else [count]
    return np.array(arrived, np.float64), np.array(times)


class Uncounted(Collector):
    """Counts all turns before anything else is read: it must be the first of a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.logs: list[TurnLog] = []
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        for log in tuple(self.logs):
            log.count()
        return iter(())
