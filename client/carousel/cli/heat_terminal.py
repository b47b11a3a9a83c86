"""A heat map in a terminal: two groups of units in the height of a line, by half blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from carousel.cli.generate_view import harmless
from carousel.cli.heat import Band, HeatMap, painted

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.style import Style
    from rich.text import Text

_MARGIN = 16
_LEAST = 10  # steps in a line, however narrow the terminal
_STRIPS = 4
_SHADES = " ░▒▓█"
_BLANKS = {" ": "·", "\n": "↵", "\t": "→", "\r": "←"}


@dataclass(frozen=True, slots=True)
class HeatView:
    """As many steps in a line as fit, and then the next; without colours in shades of grey."""

    heat: HeatMap

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        heat, width = self.heat, max(_LEAST, options.max_width - _MARGIN)
        coloured = console.color_system is not None
        for begin in range(0, min(heat.steps, width * _STRIPS), width):
            end = min(heat.steps, begin + width)
            if begin:
                yield ""
            for band in heat.bands:
                yield from _lines(band, begin, end, coloured=coloured)
            yield _axis(heat, begin, end)
        if heat.steps > width * _STRIPS:
            from rich.text import Text

            left = heat.steps - width * _STRIPS
            yield Text(f"and {left} more steps; carousel trace --html FILE shows all", style="dim")


def _lines(band: Band, begin: int, end: int, *, coloured: bool) -> Iterator[Text]:
    """A line for each two groups; the name stands at the first, the scale at the second."""
    from rich.text import Text

    notes = [band.title, f"{band.low:.2g} to {band.high:.2g}"]
    values, colours = band.values[begin:end], painted(band)[begin:end].tolist()
    for line in range(-(-values.shape[1] // 2)):
        note = notes[line] if line < len(notes) else ""
        text = Text(f"{note:<{_MARGIN - 1}.{_MARGIN - 1}} ", "dim" if line else "", no_wrap=True)
        pair = slice(2 * line, 2 * line + 2)
        for row, colour in zip(values[:, pair].tolist(), colours, strict=True):
            if any(math.isnan(value) for value in row):
                text.append(" ")
            elif coloured:
                text.append("▀" if len(row) > 1 else "█", _style(colour[pair]))
            else:
                text.append(_shade(band, sum(row) / len(row)))
        yield text


def _style(pair: list[list[int]]) -> Style:
    """The first colour above the last."""
    from rich.color import Color
    from rich.style import Style

    above, below = (Color.from_rgb(*one) for one in (pair[0], pair[-1]))
    return Style(color=above, bgcolor=below, dim=False)


def _shade(band: Band, value: float) -> str:
    share = (value - band.low) / (band.high - band.low)
    return _SHADES[round(min(1.0, max(0.0, share)) * (len(_SHADES) - 1))]


def _axis(heat: HeatMap, begin: int, end: int) -> Text:
    """What the steps read, where each is one character; else their numbers, every ten steps."""
    from rich.cells import cell_len
    from rich.text import Text

    labels = [_BLANKS.get(label, harmless(label)) for label in heat.labels[begin:end]]
    if labels and all(cell_len(label) == 1 for label in labels):
        return Text(" " * _MARGIN + "".join(labels), style="bold", no_wrap=True)
    marks = "".join(f"{heat.first_step + step:<10}" for step in range(begin, end, 10))
    return Text(f"{'step':<{_MARGIN}}{marks}", style="dim", no_wrap=True)
