"""Counts of a front end, which its server adds to its own, so that they outlive it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import Counter

from carousel.server.access.metrics import AccessMetrics
from carousel.server.counter import Counter as ThreadCounter
from carousel.server.histogram import Histogram
from carousel.server.resets.metrics import ResetMetrics
from carousel.server.rpc_metrics import RpcMetrics

Families = Mapping[str, Counter | ThreadCounter | Histogram]
Values = dict[tuple[str, tuple[str, ...]], list[float]]


def families(rpc: RpcMetrics, access: AccessMetrics, resets: ResetMetrics) -> Families:
    """What is counted where calls come in."""
    return {
        "started": rpc.rpc_started,
        "handled": rpc.rpc_handled,
        "received": rpc.rpc_received,
        "sent": rpc.rpc_sent,
        "seconds": rpc.rpc_seconds,
        "cut": rpc.streams_cut,
        "auth": access.requests,
        "shut out": resets.shut_out,
        "connections cut": resets.cut,
    }


class News:
    """What was counted since it was last asked for; at first all that there is."""

    def __init__(self, counted: Families) -> None:
        self._families = counted
        self._known: Values = {}

    def take(self) -> list[Any]:
        """Rows of a family's name, values of its labels, and what to add."""
        news = []
        for key, values in _read(self._families).items():
            known = self._known.get(key)
            if known != values:
                more = values if known is None else _less(values, known)
                news.append([key[0], list(key[1]), more])
                self._known[key] = values
        return news


def add(counted: Families, news: list[Any]) -> None:
    """Add what a front end counted."""
    for name, labels, more in news:
        family = counted[name]
        if isinstance(family, Counter):
            (family.labels(*labels) if labels else family).inc(more[0])
        elif isinstance(family, ThreadCounter):
            family.labels(*labels).count += int(more[0])
        else:
            *counts, total = more
            family.labels(*labels).add([int(count) for count in counts], total)


def _read(counted: Families) -> Values:
    found: Values = {}
    for name, family in counted.items():
        if isinstance(family, Histogram):
            for labels, child in family.children():
                found[name, labels] = [*child.counts, child.total]
            continue
        for metric in family.collect():
            for sample in metric.samples:
                if sample.name.endswith("_total"):
                    found[name, tuple(sample.labels.values())] = [sample.value]
    return found


def _less(values: list[float], known: list[float]) -> list[float]:
    return [now - before for now, before in zip(values, known, strict=True)]
