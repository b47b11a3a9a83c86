"""A dashboard: panels in rows, and the choices on top of it."""

from __future__ import annotations

from dataclasses import dataclass

from tools.dashboards.panel import DATASOURCE, Json, Panel

COLUMNS = 24
PREFIX = "carousel-"  # of uids


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A dashboard; the file is named by its `id`. `choices` are labels to choose by."""

    id: str
    title: str
    text: str
    rows: tuple[Row, ...]
    choices: tuple[str, ...] = ("target", "model")

    @property
    def panels(self) -> tuple[Panel, ...]:
        return tuple(panel for row in self.rows for panel in row.panels)

    def to_json(self) -> Json:
        return {
            "uid": f"{PREFIX}{self.id}",
            "title": f"Carousel: {self.title}",
            "description": self.text,
            "tags": ["carousel"],
            "schemaVersion": 41,
            "editable": False,
            "graphTooltip": 1,  # the same moment in all panels
            "time": {"from": "now-15m", "to": "now"},
            "refresh": "5s",
            "timezone": "browser",
            "links": [
                {
                    "type": "dashboards",
                    "title": "Carousel",
                    "tags": ["carousel"],
                    "asDropdown": False,
                    "includeVars": True,
                    "keepTime": True,
                }
            ],
            "annotations": {"list": [_firing()]},
            "templating": {"list": [_datasource(), *(_choice(name) for name in self.choices)]},
            "panels": self._places(),
        }

    def _places(self) -> list[Json]:
        """All panels with their places, from left to right and from the top down."""
        placed: list[Json] = []
        y = 0
        for row in self.rows:
            placed.append(_heading(row.title, len(placed) + 1, y))
            y += 1
            x = height = 0
            for panel in row.panels:
                if x + panel.width > COLUMNS:
                    x, y, height = 0, y + height, 0
                placed.append(panel.to_json(len(placed) + 1, x=x, y=y))
                x += panel.width
                height = max(height, panel.height)
            y += height
        return placed


def _heading(title: str, number: int, y: int) -> Json:
    place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
    return {
        "id": number,
        "type": "row",
        "title": title,
        "gridPos": place,
        "collapsed": False,
        "panels": [],
    }


def _firing() -> Json:
    """Alerts that fire, as marks in all panels."""
    return {
        "name": "Alerts",
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertname=~"Carousel.*", alertstate="firing"}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{target}} {{model}} {{training_job}}",
        "step": "5s",
    }


def _datasource() -> Json:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "current": {"text": "Prometheus", "value": "prometheus"},
        "hide": 0,
    }


def _choice(label: str) -> Json:
    query = f"label_values(carousel_model_ready, {label})"
    return {
        "name": label,
        "label": label.capitalize(),
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": label},
        "definition": query,
        "refresh": 2,  # when the time range changes
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
    }
