"""Waits: how long the items of a turn waited, told for all of its works at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from carousel.server.metrics import VersionMetrics
from carousel.server.tracing.trace import Trace, exported_id
from carousel.server.work import NEVER, Ints


class Waiting(Protocol):
    """What rides in a turn: the work of a message."""

    arrived: float
    origin: Mapping[str, str] | None
    trace: Trace


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
    if count and (labels := _found_by(slowest)):
        metrics.step_duration.remember(end - slowest.arrived, labels)


def _found_by(work: Waiting) -> Mapping[str, str]:
    """Labels by which its request is found: by its id in the logs, and among the traces."""
    labels = work.origin or {}
    trace_id = exported_id(work.trace)
    return labels if trace_id is None else {**labels, "trace_id": trace_id}
