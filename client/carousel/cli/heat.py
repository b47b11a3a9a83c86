"""A heat map of gates: what to draw, whoever draws it.

Shapes: T steps, H units, G groups of neighbouring units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Values = npt.NDArray[np.float32]

GATES = ("input", "forget", "output", "reset", "update")
SURPRISE = "surprise"

# From low to high; what can be negative has its zero in the middle.
RISING = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")
SIGNED = ("#56b4e9", "#16161a", "#e69f00")


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """One gate, candidate or state of a layer, as values [T, G]; `layer` None is the whole model.

    The colours go from `low` to `high`.
    """

    layer: int | None
    name: str
    values: Values
    low: float
    high: float

    @property
    def title(self) -> str:
        return self.name if self.layer is None else f"{self.layer} {self.name}"

    @property
    def colours(self) -> Sequence[str]:
        return SIGNED if self.low < 0 else RISING


@dataclass(frozen=True, slots=True, eq=False)
class HeatMap:
    """Bands over the same steps. `labels` say what each step read; empty: they are numbered."""

    title: str
    bands: Sequence[Band]
    labels: Sequence[str]
    first_step: int = 0

    @property
    def steps(self) -> int:
        return len(self.bands[0].values) if self.bands else 0


def bands(layers: Sequence[Mapping[str, Any]], *, groups: int, surprises: Any = ()) -> list[Band]:
    """Bands of all that each layer has by name, [T, H] each, in at most so many groups."""
    return [*_surprise(surprises), *_of_layers(layers, groups)]


def _of_layers(layers: Sequence[Mapping[str, Any]], groups: int) -> Iterator[Band]:
    import numpy as np

    for layer, named in enumerate(layers):
        for name, values in named.items():
            grouped = group(values, groups)
            most = 1.0 if name in GATES else float(np.abs(grouped).max(initial=0)) or 1.0
            yield Band(layer, name, grouped, 0.0 if name in GATES else -most, most)


def _surprise(nats: Any) -> Iterator[Band]:
    """How unexpected each step was [T]; NaN where nobody knows."""
    import numpy as np

    values = np.asarray(nats, np.float32).reshape(-1, 1)
    if np.isfinite(values).any():
        yield Band(None, SURPRISE, values, 0.0, float(np.nanmax(values)) or 1.0)


def group(values: Any, groups: int) -> Values:
    """The means [T, G] of neighbours among [T, H]; at most so many groups."""
    import numpy as np

    values = np.asarray(values, np.float32)
    count = max(1, min(groups, values.shape[1]))
    edges = np.arange(count + 1) * values.shape[1] // count
    means: Values = np.add.reduceat(values, edges[:-1], axis=1) / np.diff(edges).astype(np.float32)
    return means


def surprises(logits: Any, tokens: Sequence[int]) -> Values:
    """-ln p of each token [T] by the logits [T, V] of the step before; NaN for the first."""
    import numpy as np

    before = np.asarray(logits, np.float64)[:-1]
    most = before.max(axis=1, keepdims=True)
    totals = most[:, 0] + np.log(np.exp(before - most).sum(axis=1))
    nats = totals - before[np.arange(len(before)), np.asarray(tokens[1:], np.int64)]
    return np.concatenate([[np.nan], nats]).astype(np.float32)


def painted(band: Band, zero: str = SIGNED[1]) -> npt.NDArray[np.uint8]:
    """The red, green and blue of every value, [T, G, 3]; what is not known is as the lowest.

    Where values can be negative, `zero` is the colour of zero: that of the ground.
    """
    import numpy as np

    colours = [zero if one == SIGNED[1] else one for one in band.colours]
    anchors = [[int(one[i : i + 2], 16) for one in colours] for i in (1, 3, 5)]
    shares = np.nan_to_num((band.values - band.low) / (band.high - band.low))
    places = np.linspace(0, 1, len(colours))
    parts = [np.interp(shares, places, own) for own in anchors]
    return np.stack(parts, axis=-1).round().astype(np.uint8)
