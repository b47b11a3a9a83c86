"""The tables of the demo: the forecasts, and the metrics that moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from carousel.cli import tables
from carousel.cli.quantities import count

if TYPE_CHECKING:
    from rich.console import RenderableType

    from carousel.client import Statistics

Key = tuple[str, str]


def forecasts(rows: Sequence[tuple[str, float, float]], next_month: float) -> RenderableType:
    """Month by month, what was and what had been forecast the month before."""
    shown = [
        (month, f"{number:.1f}", f"{forecast:.1f}", f"{forecast - number:+.1f}")
        for month, number, forecast in rows
    ]
    shown.append(("the next", "", f"{next_month:.1f}", ""))
    columns = ("month", "sunspots", "forecast", "difference")
    return tables.table(*columns, rows=shown, numbers=columns[1:])


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
