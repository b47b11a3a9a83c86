"""Waits: how long the items of a turn waited, told for all of its works at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from carousel.server.metrics import VersionMetrics
from carousel.server.work import NEVER, Ints


class Waiting(Protocol):
    """What rides in a turn: the work of a message."""

    arrived: float
    origin: Mapping[str, str] | None


def tell(
    metrics: VersionMetrics,
    works: Sequence[Waiting],
    items: Ints | None,
    count: int,
    *,
    begin: float,
    end: float,
) -> None:
    """Tell of a turn from `begin` to `end`: work i rode with items[i] items, None: one each.

    `count` is all of them. The slowest may be looked at: one of a turn, whatever its size.
    """
    if len(works) == 1:
        slowest = works[0]
        metrics.step_queue.observe(begin - slowest.arrived, count)
        metrics.step_duration.observe(end - slowest.arrived, count)
    else:
        arrived = np.array([work.arrived for work in works])
        metrics.step_queue.observe_many(begin - arrived, items)
        metrics.step_duration.observe_many(end - arrived, items)
        if items is not None:
            arrived[items == 0] = NEVER
        slowest = works[int(arrived.argmin())]
    if slowest.origin is not None and count:
        metrics.step_duration.remember(end - slowest.arrived, slowest.origin)
