"""The names of metrics that there are: docs/metrics.md, and what the rules record."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
OURS = re.compile(r"[a-z_]*:?(?:carousel_|grpc_server_|carousel:)[a-z0-9_:]+")
ENDINGS = {
    "counter": ("",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
}


def exposed() -> set[str]:
    """Names as Prometheus has them."""
    text = (ROOT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", text, re.M)
    return {name + ending for name, kind in rows for ending in ENDINGS[kind]}


def recorded() -> set[str]:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules/recording.yml").read_text())
    return {rule["record"] for group in rules["groups"] for rule in group["rules"]}


def unknown(expr: str) -> set[str]:
    """Names of ours in an expression that are of no metric; those within quotes are none."""
    return set(OURS.findall(re.sub(r'"[^"]*"', "", expr))) - exposed() - recorded()
