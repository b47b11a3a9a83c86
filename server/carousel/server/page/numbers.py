"""The metrics that the page shows, in a form that a browser reads quickly."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import Metric
from prometheus_client.registry import Collector

from carousel import exposition
from carousel.v1 import admin_service_pb2 as pb

SHOWN = frozenset(
    f"carousel_{name}"
    for name in (
        "admission_rejected",
        "batch_audit_max_abs_difference",
        "device_memory_used_bytes",
        "device_utilization_ratio",
        "gate_activation_mean",
        "gate_drift_psi",
        "gate_saturation_ratio",
        "generated_tokens",
        "model_info",
        "nonfinite_rows",
        "requests_running",
        "requests_waiting",
        "restore_failures",
        "session_capacity",
        "session_state_bytes",
        "sessions",
        "sessions_created",
        "sessions_ended",
        "sessions_parked",
        "sessions_quarantined",
        "step_duration_seconds",
        "steps",
        "steps_failed",
        "store_failures",
        "training_last_checkpoint_timestamp_seconds",
        "training_last_event_timestamp_seconds",
        "turn_age_seconds",
        "turn_batch_size",
        "turn_duration_seconds",
    )
)

NEWS = frozenset(
    f"carousel_{name}"
    for name in ("nonfinite_rows", "restore_failures", "sessions_ended", "steps_failed")
)

NEWS_SECONDS, SAMPLE_SECONDS = 300.0, 30.0  # as long as the alerts look back

Series = list[dict[str, Any]]


class _Shown(Collector):
    """Without what is not shown: most samples are gRPC's."""

    def __init__(self, all_families: Collector, shown: frozenset[str]) -> None:
        self._all = all_families
        self._shown = shown

    def collect(self) -> Iterator[Metric]:
        return (family for family in self._all.collect() if family.name in self._shown)


class Past:
    """Counters as they were up to five minutes ago, looked at or not; without those at zero."""

    def __init__(self, registry: Collector) -> None:
        self._registry = registry
        # They begin at zero with the server.
        self._kept: deque[dict[str, Series]] = deque(
            [{}], maxlen=round(NEWS_SECONDS / SAMPLE_SECONDS)
        )

    @property
    def first(self) -> dict[str, Series]:
        return self._kept[0]

    def sample(self) -> None:
        """To be called every so many seconds."""
        counted = numbers(read(self._registry, NEWS))
        self._kept.append(
            {name: [one for one in series if one["value"]] for name, series in counted.items()}
        )


def read(registry: Collector, families: frozenset[str] = SHOWN) -> pb.Statistics:
    """What GetStatistics says of these families."""
    return exposition.statistics(_Shown(registry, families))


def numbers(statistics: pb.Statistics) -> dict[str, Series]:
    """By family: labels with a value; of a histogram with count, sum and [bound, count] pairs.

    None stands for what is infinite or NaN: JSON has neither.
    """
    return {
        family.name: _histogram(family)
        if family.type == pb.METRIC_TYPE_HISTOGRAM
        else [{"labels": dict(one.labels), "value": _finite(one.value)} for one in family.samples]
        for family in statistics.families
    }


def _histogram(family: pb.MetricFamily) -> Series:
    found: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for sample in family.samples:
        labels = dict(sample.labels)
        bound = labels.pop("le", "")
        one = found.setdefault(_key(labels.items()), {"labels": labels, "buckets": []})
        part = sample.name.removeprefix(f"{family.name}_")
        if part == "bucket":
            one["buckets"].append([bound, sample.value])  # JSON has no +Inf
        else:
            one[part] = _finite(sample.value)
    return list(found.values())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _key(labels: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels))
