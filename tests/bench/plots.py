"""`python -m tests.bench.plots RECORD FOLDER`: pictures of a record of `make bench`."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tests.bench.models import HIDDEN

Results = list[dict[str, Any]]

PANELS = (
    ("live", "sessions", "live sessions, 4,096 active"),
    ("sizes", "hidden", "hidden size, 256 in a message"),
    ("chunks", "length", "steps of a chunk, 64 in a message"),
)
BLUE, ORANGE, GREEN, GREY = "#1f5fa8", "#d9730d", "#2a8a4a", "#888888"
COLOURS = (BLUE, ORANGE, GREEN, "#8a3fa0", "#b03030", "#40a0b0", "#a08020", GREY)


def latencies(results: Results) -> Figure:
    """Throughput against p99, a line for each arm, a point for each number of sessions."""
    figure, axes = _axes("W1: steps a second against p99", "steps a second", "p99, ms")
    lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in results:
        if one["suite"] == "sweep":
            lines[one["arm"]].append(one)
    for (arm, points), colour in zip(lines.items(), COLOURS * 2, strict=False):
        points.sort(key=lambda one: int(one["sessions"]))
        x, y = ([float(one[key]) for one in points] for key in ("steps_per_second", "p99_ms"))
        axes.plot(x, y, color=colour, marker="o", markersize=3, linewidth=1, label=arm)
        axes.annotate(f"{points[-1]['sessions']:,}", (x[-1], y[-1]), fontsize=7, color=colour)
    axes.set(xscale="log", yscale="log")
    axes.legend(frameon=False, fontsize=8)
    return figure


def ladder(results: Results) -> Figure:
    """How often the speed of the first arm every way of stepping has."""
    rungs = [one for one in results if one["suite"] == "ladder" and one["speed_up"]]
    figure, axes = _axes("The ladder of accelerations, one core", "times the first", "")
    names = [one["name"] for one in rungs]
    colours = [BLUE if name.startswith("LSTM") else ORANGE for name in names]
    axes.barh(names, [one["speed_up"] for one in rungs], color=colours)
    for place, one in enumerate(rungs):
        axes.annotate(f" {one['speed_up']:.1f}", (one["speed_up"], place), va="center", fontsize=7)
    axes.set_xscale("log")
    axes.tick_params(axis="y", labelsize=7)
    axes.invert_yaxis()
    return figure


def scaling(results: Results) -> Figure:
    """The cost of a step beside idle sessions, by model size and by length of chunk."""
    measured = {one["suite"] for one in results}
    shown = [panel for panel in PANELS if panel[0] in measured]
    figure = Figure(figsize=(3.4 * len(shown), 3.4), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, (suite, key, title) in zip(panels, shown, strict=True):
        lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for one in results:
            if one["suite"] == suite:
                name = f"{one['cell']} {one['arm']}" if suite == "sizes" else ""
                lines[name].append((one[key], 1e6 / one["steps_per_second"]))
        for (name, points), colour in zip(lines.items(), COLOURS, strict=False):
            axes.plot(*zip(*sorted(points), strict=True), color=colour, marker="o", markersize=3,
                      linewidth=1, label=name or None)  # fmt: skip
        axes.set(xscale="log", xlabel=title, ylabel="us a step")
        if suite == "sizes":
            axes.set_xticks(HIDDEN, [str(hidden) for hidden in HIDDEN])
            axes.minorticks_off()
        axes.set_ylim(bottom=0)
        if any(lines):
            axes.legend(frameon=False, fontsize=7)
        _plain(axes)
    return figure


def _axes(title: str, x: str, y: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    axes.set(xlabel=x, ylabel=y)
    _plain(axes)
    return figure, axes


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)


PLOTS = {
    "latency": (latencies, {"sweep"}),
    "ladder": (ladder, {"ladder"}),
    "scaling": (scaling, {panel[0] for panel in PANELS}),
}


def draw(record: dict[str, Any], folder: Path) -> list[Path]:
    """The pictures that the record has figures for."""
    folder.mkdir(parents=True, exist_ok=True)
    measured = {one["suite"] for one in record["results"]}
    files = []
    for name, (plot, suites) in PLOTS.items():
        if suites & measured:
            files.append(folder / f"{name}.png")
            plot(record["results"]).savefig(files[-1], dpi=110)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.plots", description=__doc__)
    parser.add_argument("record", type=Path, nargs="+", help="records of runs; later ones win")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    suites: dict[str, Results] = {}
    for file in arguments.record:
        fresh: dict[str, Results] = defaultdict(list)
        for one in json.loads(file.read_text())["results"]:
            fresh[one["suite"]].append(one)
        suites |= fresh
    results = [one for found in suites.values() for one in found]
    for file in draw({"results": results}, arguments.folder):
        print(file)


if __name__ == "__main__":
    main()
