"""A panel of a dashboard, and its JSON as Grafana 12 reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Json = dict[str, Any]
Kind = Literal["timeseries", "stat", "heatmap", "table"]

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, and the name of its series, as in `{{model}}`."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture. `thresholds` are the values from which it is orange, and red."""

    title: str
    text: str  # what it shows, for whoever hovers over the title
    queries: tuple[Query, ...]
    kind: Kind = "timeseries"
    unit: str = "short"
    width: int = 12  # of 24
    height: int = 8
    least: float | None = 0.0
    most: float | None = None
    thresholds: tuple[float, float] | None = None
    stacked: bool = False
    log: bool = False

    def to_json(self, number: int, *, x: int, y: int) -> Json:
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.text,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [self._target(n, query) for n, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": self._defaults(), "overrides": []},
            "options": self._options(),
        } | self._transformations()

    def _target(self, number: int, query: Query) -> Json:
        now = self.kind in ("stat", "table")
        return {
            "refId": chr(ord("A") + number),
            "datasource": DATASOURCE,
            "expr": query.expr,
            "legendFormat": query.legend or "__auto",
            "format": self.kind if self.kind in ("heatmap", "table") else "time_series",
            "exemplar": self.kind == "timeseries" and "_bucket" in query.expr,
            "range": not now,
            "instant": now,
        }

    def _defaults(self) -> Json:
        orange, red = self.thresholds or (None, None)
        steps: list[Json] = [{"color": "green", "value": None}]
        if orange is not None:
            steps += [{"color": "orange", "value": orange}, {"color": "red", "value": red}]
        defaults: Json = {
            "unit": self.unit,
            "thresholds": {"mode": "absolute", "steps": steps},
            "color": {"mode": "thresholds" if self.kind == "stat" else "palette-classic"},
        }
        if self.kind == "timeseries":
            defaults["custom"] = self._lines()
        if self.least is not None:
            defaults["min"] = self.least
        if self.most is not None:
            defaults["max"] = self.most
        return defaults

    def _lines(self) -> Json:
        scale: Json = {"type": "log", "log": 10} if self.log else {"type": "linear"}
        return {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 25 if self.stacked else 8,
            "showPoints": "never",
            "spanNulls": False,
            "scaleDistribution": scale,
            "stacking": {"mode": "normal" if self.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if self.thresholds else "off"},
        }

    def _options(self) -> Json:
        if self.kind == "stat":
            return {
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                "colorMode": "background",
                "graphMode": "none",
                "textMode": "auto",
            }
        if self.kind == "heatmap":
            return {
                "calculate": False,
                "yAxis": {"unit": self.unit},
                "color": {"mode": "scheme", "scheme": "Viridis", "scale": "exponential"},
                "cellGap": 0,
                "tooltip": {"mode": "single", "yHistogram": True},
                "rowsFrame": {"layout": "le"},
            }
        if self.kind == "table":
            return {"showHeader": True, "cellHeight": "sm"}
        return {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }

    def _transformations(self) -> Json:
        """Tables show labels; the time and the constant 1 say nothing."""
        if self.kind != "table":
            return {}
        hidden = {name: True for name in ("Time", "Value", "__name__", "job", "instance")}
        return {"transformations": [{"id": "organize", "options": {"excludeByName": hidden}}]}
