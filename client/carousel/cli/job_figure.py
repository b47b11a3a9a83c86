"""A job's curves as a figure: losses, a metric, gradient norms, horizons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from carousel.cli import exits, job_lines, job_views, plots

if TYPE_CHECKING:
    from carousel.cli.job_history import History
    from carousel.client import Job

# Okabe and Ito's colours, told apart by everyone.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#888888"
_LAYERS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9")
_SIZE = (10, 6.5)
_DPI = 150


def draw(job: Job, history: History, stem: Path) -> list[Path]:
    """Write `stem`.png and `stem`.svg; their paths."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        exits.leave(exits.FAILED, "plots need matplotlib: pip install matplotlib")
    if not history.progress:
        raise typer.BadParameter(f"{job.id} has not learned anything yet")
    figure = Figure(figsize=_SIZE, layout="constrained")
    (losses, metric), (norms, horizons) = figure.subplots(2, 2, sharex=True)
    figure.suptitle(f"{job.id}: {job_views.task(job)}, {job_views.network(job)}", fontsize=11)
    _losses(losses, history)
    _metric(metric, history)
    _norms(norms, history)
    _horizons(horizons, history, window=job.recipe.window)
    for axes in (losses, metric, norms, horizons):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e5e5e5", linewidth=0.6)
        axes.set_axisbelow(True)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    for axes in (norms, horizons):
        axes.set_xlabel("updates")
    files = [stem.with_name(f"{stem.name}.{ending}") for ending in ("png", "svg")]
    for file in files:
        figure.savefig(file, dpi=_DPI)
    return files


def _losses(axes: Any, history: History) -> None:
    axes.plot(*zip(*history.losses, strict=True), color=BLUE, linewidth=1, label="training")
    if history.evaluations:
        points = zip(*history.validation_losses, strict=True)
        axes.plot(*points, color=ORANGE, marker="o", markersize=3, linewidth=1, label="validation")
        best = min(history.evaluations, key=lambda one: one.loss)
        axes.axvline(best.step, color=GREY, linewidth=0.8, linestyle=":", label="best")
    everything = [*history.losses, *history.validation_losses]
    if plots.is_steep(everything):
        axes.set_yscale("log")
    axes.set_title("loss", fontsize=10)


def _metric(axes: Any, history: History) -> None:
    """The first metric that has its own curve, and the naive one beside it."""
    found = history.evaluations
    name = next((n for n in found[-1].metrics if not n.startswith("naive_")), "") if found else ""
    if not name:
        axes.set_title("no metric yet", fontsize=10, color=GREY)
        return
    points = [(one.step, one.metrics[name]) for one in found if name in one.metrics]
    axes.plot(*zip(*points, strict=True), color=ORANGE, marker="o", markersize=3, linewidth=1,
              label="model")  # fmt: skip
    naive = found[-1].metrics.get(f"naive_{name}")
    if naive is not None:
        axes.axhline(naive, color=GREY, linewidth=1, linestyle="--", label="naive")
    axes.set_title(f"{job_lines.plain(name)} on validation data", fontsize=10)


def _norms(axes: Any, history: History) -> None:
    points = [(one.step, one.gradient_norm) for one in history.progress]
    axes.plot(*zip(*points, strict=True), color=GREEN, linewidth=1)
    if all(norm > 0 for _, norm in points):
        axes.set_yscale("log")
    axes.set_title("gradient norm before clipping", fontsize=10)


def _horizons(axes: Any, history: History, *, window: int | None) -> None:
    axes.set_title("horizon: steps until the gradient is under 1 %", fontsize=10)
    if not history.gradients:
        return
    for place in range(len(history.gradients[-1].layers)):
        points = [
            (flow.step, flow.layers[place].horizon)
            for flow in history.gradients
            if place < len(flow.layers)
        ]
        colour = _LAYERS[place % len(_LAYERS)]
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3, linewidth=1,
                  label=f"layer {place}")  # fmt: skip
    if window:
        axes.axhline(window, color=GREY, linewidth=1, linestyle="--", label="window")
    axes.set_ylim(bottom=0)
