"""Plots of text: a curve in braille dots, and a line of bars."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

Point = tuple[float, float]

MARK = "●"
_BARS = "▁▂▃▄▅▆▇█"
_BLANK = 0x2800
_STEEP = 10.0
# The bits of a cell's 2 x 4 dots, by row and column.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def curve(
    points: Sequence[Point], *, width: int, height: int, marks: Sequence[Point] = ()
) -> list[str]:
    """The curve through `points` (x, y) in `height` lines of `width` cells; `marks` lie over it.

    Points that are not finite are left out; without any the lines are empty cells.
    """
    points = [p for p in points if _finite(p)]
    marks = [p for p in marks if _finite(p)]
    cells = [[_BLANK] * width for _ in range(height)]
    (left, right), (low, high) = bounds([*points, *marks])

    def place(point: Point, wide: int, tall: int) -> tuple[int, int]:
        across = (point[0] - left) / (right - left) if right > left else 0.0
        up = (point[1] - low) / (high - low) if high > low else 0.5
        return round(across * (wide - 1)), round((1 - up) * (tall - 1))

    dots = [place(point, 2 * width, 4 * height) for point in points]
    for begin, end in zip(dots, dots[1:] or dots, strict=False):
        for x, y in _line(begin, end):
            cells[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
    lines = [[chr(cell) for cell in row] for row in cells]
    for mark in marks:
        x, y = place(mark, width, height)
        lines[y][x] = MARK
    return ["".join(line) for line in lines]


def bounds(points: Sequence[Point]) -> tuple[Point, Point]:
    """The smallest and largest x, and those of y, of what is finite; 0 where nothing is."""
    finite = [point for point in points if _finite(point)] or [(0.0, 0.0)]
    xs, ys = [x for x, _ in finite], [y for _, y in finite]
    return (min(xs), max(xs)), (min(ys), max(ys))


def is_steep(points: Sequence[Point]) -> bool:
    """Whether the largest is so far above the smallest that only logarithms show both."""
    ys = [y for _, y in points if math.isfinite(y)]
    return bool(ys) and min(ys) > 0 and max(ys) > _STEEP * min(ys)


def logarithms(points: Sequence[Point]) -> list[Point]:
    return [(x, math.log(y)) for x, y in points if y > 0]


def bars(values: Sequence[float], *, width: int, decades: float = 4.0) -> str:
    """Values as bars, by their logarithm below the largest: one of `decades` less is the lowest.

    More values than `width` are thinned out to the largest of each stretch.
    """
    if not values:
        return ""
    shown = min(width, len(values))
    cuts = [round(i * len(values) / shown) for i in range(shown + 1)]
    tops = [max(values[a:b]) for a, b in itertools.pairwise(cuts)]
    largest = max((top for top in tops if math.isfinite(top)), default=0.0)
    return "".join(_bar(top, largest, decades) for top in tops)


def _bar(value: float, largest: float, decades: float) -> str:
    if not math.isfinite(value):
        return "!"
    if value <= 0 or largest <= 0:
        return _BARS[0]
    share = 1 + math.log10(value / largest) / decades
    return _BARS[round(max(0.0, min(1.0, share)) * (len(_BARS) - 1))]


def _line(begin: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    """The dots from one to the other."""
    steps = max(abs(end[0] - begin[0]), abs(end[1] - begin[1]), 1)
    across, down = (end[0] - begin[0]) / steps, (end[1] - begin[1]) / steps
    return [(round(begin[0] + i * across), round(begin[1] + i * down)) for i in range(steps + 1)]


def _finite(point: Point) -> bool:
    return all(map(math.isfinite, point))
