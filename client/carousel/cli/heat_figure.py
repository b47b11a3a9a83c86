"""A heat map as a PNG: all bands in one picture, one below the other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from carousel.cli import exits
from carousel.cli.heat import Band, HeatMap, painted

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]

_WIDTH, _TALLEST, _INCHES = 12.0, 14.0, 1 / 45  # of all, and of a row of pixels
_DPI, _POINTS = 150, 72  # to an inch
_WHITE = "#ffffff"
_TALL, _FLAT, _GAP = 32, 12, 4  # rows: of a band, of one without groups, between two
_MOST_LABELS = 120


def draw(heat: HeatMap, file: Path) -> None:
    """Write the picture; leaves the command where matplotlib is not installed."""
    import numpy as np

    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        exits.leave(exits.FAILED, "pictures need matplotlib: pip install matplotlib")
    parts = [_pixels(band) for band in heat.bands]
    ends = np.cumsum([len(part) for part in parts])
    pixels = np.concatenate(parts)  # [rows, T, 3]
    height = min(_TALLEST, 1.5 + len(pixels) * _INCHES)
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    figure.suptitle(heat.title, fontsize=11)
    axes = figure.subplots()
    axes.imshow(pixels, aspect="auto", interpolation="nearest")
    middles = [end - _GAP - (len(part) - _GAP) / 2 for end, part in zip(ends, parts, strict=True)]
    scales = [f"{one.title}\n{one.low:.2g} to {one.high:.2g}" for one in heat.bands]
    room = (height - 1.5) * _POINTS / len(heat.bands)
    axes.set_yticks(middles, scales, fontsize=min(7, room / 2.5))
    if heat.labels and heat.steps <= _MOST_LABELS:
        shown = [label if label.isprintable() else repr(label)[1:-1] for label in heat.labels]
        names = [label.replace("$", r"\$") for label in shown]
        axes.set_xticks(range(heat.steps), names, fontsize=7)
    else:
        axes.set_xlabel("step", fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.savefig(file, dpi=_DPI, format="png")


def _pixels(band: Band) -> Pixels:
    """A band's rows [rows, T, 3], white where nothing is known, and the gap below it."""
    import numpy as np

    colours = painted(band, _WHITE)
    colours[np.isnan(band.values)] = 255
    steps, groups, _ = colours.shape
    rows = _FLAT if groups == 1 else max(_TALL, groups)
    chosen = np.arange(rows) * groups // rows
    gap = np.full((_GAP, steps, 3), 255, np.uint8)
    return np.concatenate([colours.transpose(1, 0, 2)[chosen], gap])
