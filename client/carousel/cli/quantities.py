"""Quantities for people: durations, moments, sizes and counts, in and out."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import typer

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])?")


def seconds(text: str) -> float:
    """`90`, `90s`, `1h30m`, `2d` in seconds."""
    parts = _PART.findall(text)
    plain = len(parts) == 1 or all(unit for _, unit in parts)
    if not parts or not plain or "".join(n + u for n, u in parts) != text:
        raise typer.BadParameter(f"a duration must be as in 90, 90s, 5m, 1h30m or 2d, got {text!r}")
    return sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)


def span(length: timedelta | float) -> str:
    """`59 min`, `2 h`, `350 ms`, `12 us`."""
    value = length.total_seconds() if isinstance(length, timedelta) else length
    if value < 0.001:
        return f"{value * 1e6:.3g} us"
    if value < 1:
        return f"{value * 1e3:.3g} ms"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if value >= 2 * size or value == size:
            return f"{value / size:.1f} {unit}".replace(".0 ", " ")
    return f"{value:.3g} s"


def when(moment: datetime) -> str:
    """`in 59 min`, `3 min ago`."""
    away = (moment - datetime.now(UTC)).total_seconds()
    if abs(away) < 1:
        return "now"
    return f"in {span(round(away))}" if away > 0 else f"{span(round(-away))} ago"


def size(count: float) -> str:
    """Bytes: `8 KiB`, `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.3g} {unit}" if count < 1000 else f"{count:.0f} {unit}"


def count(value: float) -> str:
    """`1,048,576`; at most four digits behind the point."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"
