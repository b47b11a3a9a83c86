"""A heat map as a PNG: a picture for each band, one below the other."""

from __future__ import annotations

from pathlib import Path

from carousel.cli import exits
from carousel.cli.heat import HeatMap

_WIDTH, _ROW = 12.0, 0.5
_DPI = 150
_MOST_LABELS = 120


def draw(heat: HeatMap, file: Path) -> None:
    """Write the picture; leaves the command where matplotlib is not installed."""
    try:
        from matplotlib.colors import LinearSegmentedColormap
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        exits.leave(exits.FAILED, "pictures need matplotlib: pip install matplotlib")
    heights = [0.4 if band.layer is None else 1.0 for band in heat.bands]
    size = (_WIDTH, 1.0 + _ROW * sum(heights) * 1.6)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(heat.title, fontsize=11)
    rows = figure.subplots(len(heat.bands), 1, sharex=True, squeeze=False, height_ratios=heights)
    for band, axes in zip(heat.bands, rows[:, 0], strict=True):
        colours = LinearSegmentedColormap.from_list(band.name, list(band.colours))
        seen = axes.imshow(
            band.values.T,
            aspect="auto",
            interpolation="nearest",
            cmap=colours,
            vmin=band.low,
            vmax=band.high,
        )
        axes.set_ylabel(band.title, rotation=0, ha="right", va="center", fontsize=8)
        axes.set_yticks([])
        bar = figure.colorbar(seen, ax=axes, pad=0.01, aspect=6, ticks=[band.low, band.high])
        bar.ax.tick_params(labelsize=6)
        bar.outline.set_visible(False)  # type: ignore[operator]
    last = rows[-1, 0]
    if heat.labels and heat.steps <= _MOST_LABELS:
        shown = [label if label.isprintable() else repr(label)[1:-1] for label in heat.labels]
        last.set_xticks(range(heat.steps), [label.replace("$", r"\$") for label in shown])
    else:
        last.set_xlabel("step", fontsize=8)
    last.tick_params(labelsize=7)
    figure.savefig(file, dpi=_DPI, format="png")
