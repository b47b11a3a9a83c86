"""The dashboards as they are provisioned, and what a Prometheus has for their panels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deploy.prometheus import Labels, Points, Prometheus

FOLDER = Path(__file__).parents[2] / "deploy/grafana/dashboards"

# What Grafana puts in the place of its variables, with everything chosen; a rate over some scrapes.
VARIABLES = {"$__rate_interval": "10s", "$target": ".*", "$model": ".*"}


@dataclass(frozen=True, slots=True)
class Shown:
    """A panel of a dashboard, with its expressions as Prometheus is asked for them."""

    board: str
    title: str
    kind: str
    unit: str
    least: float | None
    place: dict[str, int]  # x, y, w, h of the grid
    queries: tuple[tuple[str, str], ...]  # expression and legend

    def series(self, prometheus: Prometheus) -> list[tuple[str, Labels, Points]]:
        """Legend, labels and points of all its queries."""
        return [
            (legend, labels, points)
            for expr, legend in self.queries
            for labels, points in prometheus.series(expr)
        ]


def load(file: Path) -> dict[str, Any]:
    board: dict[str, Any] = json.loads(file.read_text())
    return board


def files() -> list[Path]:
    return sorted(FOLDER.glob("*.json"))


def panels(file: Path) -> Iterator[Shown]:
    """All panels but the headings."""
    for panel in load(file)["panels"]:
        if panel["type"] != "row":
            defaults = panel["fieldConfig"]["defaults"]
            yield Shown(
                file.stem,
                panel["title"],
                panel["type"],
                defaults["unit"],
                defaults.get("min"),
                panel["gridPos"],
                tuple((fill(t["expr"]), t["legendFormat"]) for t in panel["targets"]),
            )


def headings(file: Path) -> dict[str, int]:
    """Titles of rows, and where they stand from the top down."""
    rows = (panel for panel in load(file)["panels"] if panel["type"] == "row")
    return {row["title"]: row["gridPos"]["y"] for row in rows}


def fill(expr: str) -> str:
    """An expression with everything chosen."""
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    assert "$" not in expr, expr
    return expr


def latest(prometheus: Prometheus, board: str, title: str) -> list[float]:
    """The newest number of each series of a panel."""
    (panel,) = (p for p in panels(FOLDER / f"{board}.json") if p.title == title)
    return [points[-1][1] for _, _, points in panel.series(prometheus)]
