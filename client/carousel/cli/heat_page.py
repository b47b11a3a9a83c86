"""A heat map as one page of HTML that asks for nothing else: hover to see values."""

from __future__ import annotations

import html
import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

from carousel.cli.heat import HeatMap

_TEMPLATE = "heat_page.html"


def write(heat: HeatMap, file: Path) -> None:
    """Write the page."""
    page = resources.files("carousel.cli").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    page = page.replace("{{title}}", html.escape(heat.title))
    file.write_text(page.replace("{{data}}", _script(heat)), encoding="utf-8")


def _script(heat: HeatMap) -> str:
    """The data as JSON that no label can break out of."""
    data = {
        "first_step": heat.first_step,
        "labels": list(heat.labels),
        "bands": [
            {
                "layer": band.layer,
                "name": band.name,
                "low": band.low,
                "high": band.high,
                "colours": list(band.colours),
                "values": [[_number(value) for value in row] for row in band.values.tolist()],
            }
            for band in heat.bands
        ],
    }
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _number(value: float) -> Any:
    """Five digits are more than a colour shows."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
