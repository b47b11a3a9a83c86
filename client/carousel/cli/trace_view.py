"""How a trace looks: heat maps of all gates, and their figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carousel.cli import heat, tables
from carousel.cli.outputs_view import symbols_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from carousel.client import ModelConfig, Trace

# A gate this close to 0 or 1 hardly passes a gradient.
_SATURATED = 0.05
_SEEN_GROUPS, _DRAWN_GROUPS = 4, 16  # of units in a terminal, in a picture
_MOST_VALUES = 2**19  # in a page


@dataclass(frozen=True, slots=True, eq=False)
class Traced:
    """A trace, what each step read (empty for features), and how unexpected that was (empty where
    the model does not predict it)."""

    layers: Sequence[Any]
    outputs: Any
    model_version: str
    symbols: Sequence[str]
    surprises: Any = field(repr=False)
    files: Sequence[str] = field(default=(), repr=False)


def traced(trace: Trace, values: Any, config: ModelConfig) -> Traced:
    """What a network of this config read, [T] tokens or [T, D] features, and what it did."""
    tokens = [int(one) for one in values] if config.input_type == "tokens" else []
    symbols = symbols_of(config, config.input_size) if tokens else []
    predicts = bool(tokens) and config.head == "softmax" and config.output_size == config.input_size
    return Traced(
        layers=trace.layers,
        outputs=trace.outputs,
        model_version=trace.model_version,
        symbols=[symbols[one] if one < len(symbols) else str(one) for one in tokens],
        surprises=heat.surprises(trace.outputs, tokens) if predicts else (),
    )


def drawn(one: Traced, *, png: Path | None, html: Path | None) -> Traced:
    """Write the files that were asked for, and name them."""
    if png is not None:
        from carousel.cli import heat_figure

        heat_figure.draw(_heat(one, _DRAWN_GROUPS), png)
    if html is not None:
        from carousel.cli import heat_page

        steps, names = len(one.outputs), sum(len(layer) for layer in one.layers)
        heat_page.write(_heat(one, max(1, _MOST_VALUES // (steps * names))), html)
    return replace(one, files=[str(file) for file in (png, html) if file is not None])


def show(one: Traced) -> RenderableType:
    """The heat map, and a row of figures for each layer and each of its values."""
    from rich.console import Group

    from carousel.cli.heat_terminal import HeatView

    written = [f"{file} shows more of it" for file in one.files]
    return Group(HeatView(_heat(one, _SEEN_GROUPS)), "", _figures(one), *written)


def _heat(one: Traced, groups: int) -> heat.HeatMap:
    bands = heat.bands(one.layers, groups=groups, surprises=one.surprises)
    return heat.HeatMap(f"{one.model_version}: {len(one.outputs)} steps", bands, one.symbols)


def _figures(one: Traced) -> RenderableType:
    import numpy as np

    columns = ("mean", "spread", "least", "most", "saturated")
    rows = []
    for number, layer in enumerate(one.layers):
        for name, values in layer.items():  # [T, H]
            near_end = (values < _SATURATED) | (values > 1 - _SATURATED)
            figures = (values.mean(), values.std(), values.min(), values.max())
            rows.append(
                (
                    str(number),
                    name,
                    *(f"{figure:.3f}" for figure in figures),
                    f"{np.mean(near_end):.0%}" if name in heat.GATES else "",
                )
            )
    return tables.table("layer", "value", *columns, rows=rows, numbers=columns)
