"""The tables of the demo: the forecasts, and the metrics that moved."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from carousel.cli import tables
from carousel.cli.quantities import count

if TYPE_CHECKING:
    from rich.console import RenderableType

    from carousel.client import Statistics

Key = tuple[str, str]


class Month(NamedTuple):
    """Its sunspots, what had been forecast the month before, and that month's sunspots."""

    name: str
    number: float
    forecast: float
    last: float


def forecasts(months: Sequence[Month], next_month: float) -> RenderableType:
    """Month by month, what was and what had been forecast."""
    rows = [
        (m.name, f"{m.number:.1f}", f"{m.forecast:.1f}", f"{m.forecast - m.number:+.1f}")
        for m in months
    ]
    rows.append(("the next", "", f"{next_month:.1f}", ""))
    columns = ("month", "sunspots", "forecast", "difference")
    return tables.table(*columns, rows=rows, numbers=columns[1:])


def verdict(months: Sequence[Month]) -> str:
    """How good that is, beside the forecast that costs nothing."""
    ours = fmean(abs(m.forecast - m.number) for m in months)
    naive = fmean(abs(m.last - m.number) for m in months)
    return (
        f"off by {ours:.1f} on average; forecasting the same as in the last month would be off "
        f"by {naive:.1f}"
    )


def moved(before: Statistics, after: Statistics) -> RenderableType:
    """Carousel's own counters that changed, by model."""
    then, now = _counters(before), _counters(after)
    rows = [
        (name, model, count(then.get((name, model), 0.0)), count(value))
        for (name, model), value in now.items()
        if value != then.get((name, model), 0.0)
    ]
    return tables.table(
        "metric", "model", "before", "after", rows=rows, numbers=("before", "after")
    )


def turns(after: Statistics) -> str:
    """How the steps rode."""
    number = after.value("carousel_turn_batch_size_count")
    rides = after.value("carousel_turn_batch_size_sum")
    steps = after.value("carousel_steps_total")
    return (
        f"{count(steps)} steps took {count(number)} turns: {rides / max(number, 1):.1f} sessions "
        "rode together in each, on average"
    )


def _counters(one: Statistics) -> dict[Key, float]:
    """Sums over all labels but the model."""
    sums: dict[Key, float] = {}
    for family in one.families:
        for sample in family.samples:
            if sample.name.startswith("carousel_") and sample.name.endswith("_total"):
                key = (sample.name, sample.labels.get("model", ""))
                sums[key] = sums.get(key, 0.0) + sample.value
    return sums
