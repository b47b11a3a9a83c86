"""How metrics look: a row for each value; a histogram is one row with its mean and quantiles."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from carousel.cli import tables
from carousel.cli.quantities import count, span

if TYPE_CHECKING:
    from rich.console import RenderableType

    from carousel.client import MetricFamily, MetricSample

_NUMBERS = ("value", "mean", "p50", "p99")


def moved(families: Sequence[MetricFamily]) -> list[MetricFamily]:
    """Without what is zero, and without constants and creation times."""
    kept = [
        dataclasses.replace(family, samples=tuple(s for s in family.samples if _tells(s)))
        for family in families
    ]
    return [family for family in kept if family.samples]


def _tells(sample: MetricSample) -> bool:
    return sample.value != 0 and not sample.name.endswith(("_created", "_info"))


def statistics(families: Sequence[MetricFamily]) -> RenderableType:
    """The value of a histogram is how often it was told."""
    rows = [row for family in families for row in _rows(family)]
    if not rows:
        return "There is nothing to show."
    return tables.table("metric", "model", "labels", *_NUMBERS, rows=rows, numbers=_NUMBERS)


def _rows(family: MetricFamily) -> Iterator[tuple[str, ...]]:
    if family.type != "histogram":
        for sample in family.samples:
            yield sample.name, *_labels(sample.labels), count(sample.value), "", "", ""
        return
    for labels, told in _histograms(family).items():
        yield family.name, *_labels(dict(labels)), *told.cells(family.name.endswith("_seconds"))


def _labels(labels: Mapping[str, str]) -> tuple[str, str]:
    """The model as one would write it, and all else."""
    rest = dict(labels)
    name = [rest.pop(label) for label in ("model", "version") if label in rest]
    return "/".join(name), " ".join(f"{label}={value}" for label, value in rest.items())


@dataclass(slots=True)
class _Histogram:
    """Under one set of labels; `buckets` are (upper bound, cumulative count)."""

    count: float = 0.0
    sum: float = 0.0
    buckets: list[tuple[float, float]] = field(default_factory=list)

    def cells(self, is_time: bool) -> tuple[str, ...]:
        if not self.count:
            return "0", "", "", ""
        mean = self.sum / self.count
        half, most = (quantile(self.buckets, share) for share in (0.5, 0.99))
        if is_time:
            return count(self.count), span(mean), span(half), span(most)
        # Half a session never rode in a turn.
        return count(self.count), count(mean), count(math.ceil(half)), count(math.ceil(most))


def _histograms(family: MetricFamily) -> dict[tuple[tuple[str, str], ...], _Histogram]:
    """By the labels without `le`."""
    found: dict[tuple[tuple[str, str], ...], _Histogram] = {}
    for sample in family.samples:
        labels = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
        one = found.setdefault(labels, _Histogram())
        match sample.name.removeprefix(f"{family.name}_"):
            case "bucket":
                one.buckets.append((float(sample.labels["le"]), sample.value))
            case "count":
                one.count = sample.value
            case "sum":
                one.sum = sample.value
    return found


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float:
    """By linear interpolation within the bucket, as Prometheus does it; 0 without any."""
    ordered = sorted(buckets)
    rank = share * ordered[-1][1] if ordered else 0.0
    below, before = 0.0, 0.0
    for bound, cumulative in ordered:
        if cumulative >= rank and cumulative > before:
            # Above the last bound nothing more is known.
            part = 0.0 if math.isinf(bound) else (rank - before) / (cumulative - before)
            return below + (bound - below) * part if part else below
        below, before = bound, cumulative
    return 0.0
