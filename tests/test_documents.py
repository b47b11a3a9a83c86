"""What the documents say is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import CollectorRegistry

from carousel.errors import CATALOGUE
from carousel.server.live_gauges import LiveGauges
from carousel.server.metrics import Metrics
from carousel.server.table import SessionTable

ROOT = Path(__file__).parents[1]


def test_every_reason_is_documented_with_its_status_code() -> None:
    text = (ROOT / "docs/errors.md").read_text()
    documented = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", text, re.M))
    assert documented == {reason: kind.code.name for reason, kind in CATALOGUE.items()}


def test_every_metric_is_documented_with_its_labels() -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    documented = set(re.findall(r"^\| `(\w+)` \|", text, re.M))
    metrics = Metrics()
    registry: CollectorRegistry = metrics.registry
    LiveGauges([], SessionTable(), capacity=0, registry=registry)
    assert documented == {family.name for family in registry.collect()}


def test_the_readme_s_file_tree_names_what_exists() -> None:
    text = (ROOT / "README.md").read_text()
    tree = re.search(r"## The tree\n.*?```\n(.*?)```", text, re.S)
    assert tree is not None
    named = [line.split()[0] for line in tree[1].splitlines() if line.strip()]
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing
