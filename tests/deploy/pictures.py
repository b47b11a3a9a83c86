"""Draws every dashboard from the data of a real run: `python -m tests.deploy.pictures FOLDER`.

A stand-in for screenshots of Grafana where there is none: the same queries, in the same places.
"""

from __future__ import annotations

import itertools
import math
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.deploy import dashboards
from tests.deploy.dashboards import Shown
from tests.deploy.prometheus import SCRAPE_SECONDS, Labels, Points, Prometheus
from tests.deploy.stand import stand

RUN_SECONDS = 90.0
CELL = 0.55  # inches of a row of the grid
WIDTH = 15.0
PALETTE: dict[Any, Any] = {
    "figure.facecolor": "#111217",
    "axes.facecolor": "#181b1f",
    "axes.edgecolor": "#34373d",
    "axes.labelcolor": "#ccccdc",
    "axes.titlecolor": "#ccccdc",
    "text.color": "#ccccdc",
    "xtick.color": "#9a9aa8",
    "ytick.color": "#9a9aa8",
    "grid.color": "#2a2d33",
    "font.size": 7,
}
GREEN = "#3f9a57"
Series = list[tuple[str, Labels, Points]]


def draw(file: Path, prometheus: Prometheus, folder: Path) -> None:
    """One dashboard as a picture."""
    panels = list(dashboards.panels(file))
    rows = max(panel.place["y"] + panel.place["h"] for panel in panels) + 1  # and the title
    with mpl.rc_context(PALETTE):
        figure = Figure(figsize=(WIDTH, rows * CELL))
        title = dashboards.load(file)["title"]
        figure.suptitle(title, x=0.01, y=0.997, ha="left", va="top", fontsize=12)
        for heading, y in dashboards.headings(file).items():
            figure.text(0.01, 1 - (y + 1.6) / rows, heading, fontsize=10, va="center")
        for panel in panels:
            _draw_panel(figure, rows, panel, panel.series(prometheus))
        figure.savefig(folder / f"{file.stem}.png", dpi=80)


def _draw_panel(figure: Figure, rows: int, panel: Shown, series: Series) -> None:
    place = panel.place
    low = 1 - (place["y"] + place["h"] + 1) / rows
    box = (place["x"] / 24 + 0.03, low + 0.8 / rows)
    size = (place["w"] / 24 - 0.04, (place["h"] - 1.8) / rows)
    axes = figure.add_axes((*box, *size))
    axes.set_title(panel.title, loc="left", fontsize=8)
    if not series:
        axes.axis("off")
        axes.text(0.5, 0.5, "no data", ha="center", va="center", transform=axes.transAxes)
    elif panel.kind == "stat":
        _draw_number(axes, panel, series)
    elif panel.kind == "table":
        _draw_table(axes, series)
    elif panel.kind == "heatmap":
        _draw_heat(axes, panel, series)
    else:
        _draw_lines(axes, panel, series)


def _draw_number(axes: Axes, panel: Shown, series: Series) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor(GREEN)
    value = said(series[0][2][-1][1], panel.unit)
    axes.text(0.5, 0.5, value, ha="center", va="center", fontsize=16, transform=axes.transAxes)


def _draw_table(axes: Axes, series: Series) -> None:
    axes.axis("off")
    hidden = ("__name__", "job", "instance")
    lines = [
        "   ".join(f"{name}: {value}" for name, value in labels.items() if name not in hidden)
        for _, labels, _ in series
    ]
    axes.text(0, 1, "\n".join(lines), va="top", fontsize=7, transform=axes.transAxes)


def _draw_lines(axes: Axes, panel: Shown, series: Series) -> None:
    for legend, labels, points in series[:20]:
        when, values = zip(*points, strict=True)
        axes.plot(when, values, linewidth=1, label=named(legend, labels))
    axes.grid(linewidth=0.5)
    if panel.least is not None:
        axes.set_ylim(bottom=panel.least)
    axes.yaxis.set_major_formatter(lambda value, _: said(value, panel.unit))
    axes.xaxis.set_major_formatter(_clock)
    axes.legend(fontsize=5.5, loc="upper left", frameon=False, ncols=2)


def _draw_heat(axes: Axes, panel: Shown, series: Series) -> None:
    """Cumulative counts by bucket, as what came into each."""
    buckets = sorted(series, key=lambda one: float(one[1]["le"]))
    times = sorted({when for _, _, points in buckets for when, _ in points})
    known = [dict(points) for _, _, points in buckets]
    below = [[0.0] * len(times), *([one.get(when, 0.0) for when in times] for one in known)]
    cells = [
        [max(high - low, 0.0) for low, high in zip(*pair, strict=True)]
        for pair in itertools.pairwise(below)
    ]
    axes.pcolormesh(
        [*times, times[-1] + SCRAPE_SECONDS], range(len(buckets) + 1), cells, cmap="viridis"
    )
    bounds = [float(labels["le"]) for _, labels, _ in buckets]
    axes.set_yticks(range(1, len(bounds) + 1, 2))
    axes.set_yticklabels([said(bound, panel.unit) for bound in bounds[::2]])
    axes.xaxis.set_major_formatter(_clock)


def named(legend: str, labels: Labels) -> str:
    """A legend with the values of its labels."""
    return re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), legend)


def _clock(when: float, _: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(when))


def said(value: float, unit: str) -> str:
    """A number with its unit, short."""
    if math.isinf(value):
        return "inf"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "sci":
        return f"{value:.1e}"
    if unit == "s":
        for size, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
            if value >= size:
                return f"{value / size:.3g} {name}"
        return f"{value:.3g} s"
    for size, name in ((2.0**30, "Gi"), (2.0**20, "Mi"), (2.0**10, "Ki")):
        if unit == "bytes" and value >= size:
            return f"{value / size:.3g} {name}B"
    return f"{value:.4g}"


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data, stand(Path(data), max_sessions=1000) as made:
        time.sleep(RUN_SECONDS)
        for file in dashboards.files():
            draw(file, made.prometheus, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
