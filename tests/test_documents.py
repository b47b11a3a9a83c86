"""What the documents say is what the code does."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

from carousel.errors import CATALOGUE
from carousel.exporter import Exporter, Targets
from carousel.exposition import Files
from carousel.server.device_gauges import DeviceGauges
from carousel.server.live_gauges import LiveGauges
from carousel.server.metrics import Metrics
from carousel.server.table import SessionTable
from carousel.server.tls import open_certificate
from tests.conftest import RunningServer
from tests.papers import Papers

ROOT = Path(__file__).parents[1]


def test_every_reason_is_documented_with_its_status_code() -> None:
    text = (ROOT / "docs/errors.md").read_text()
    documented = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", text, re.M))
    assert documented == {reason: kind.code.name for reason, kind in CATALOGUE.items()}


def documented() -> dict[str, tuple[str, set[str]]]:
    """Type and labels by name."""
    text = (ROOT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \|", text, re.M)
    return {name: (kind, set(labels.split(", ")) - {"-"}) for name, kind, labels in rows}


def test_every_metric_is_documented_with_its_type(papers: Papers) -> None:
    metrics = Metrics()
    open_certificate(Files(papers.cert("server"), papers.key("server")), metrics.registry)
    LiveGauges([], SessionTable(), capacity=0, turn_age=lambda: 0.0, registry=metrics.registry)
    DeviceGauges("cpu", registry=metrics.registry)
    with closing(Exporter(Targets(["localhost:1"]))) as exporter:
        families = [*metrics.registry.collect(), *exporter.read()]
    kinds = {
        family.name + "_total" * (family.type == "counter"): family.type for family in families
    }
    assert {name: kind for name, (kind, _) in documented().items()} == kinds


def test_every_metric_is_documented_with_its_labels(server: RunningServer) -> None:
    with closing(Exporter(Targets([server.target]))) as exporter:
        families = exporter.read()
    for family in families:
        _, labels = documented()[family.name + "_total" * (family.type == "counter")]
        added = {"le", "target"} - labels  # by the exposition and by the exporter
        for sample in family.samples:
            assert sample.labels.keys() - added == labels, sample.name


def test_the_readme_s_file_tree_names_what_exists() -> None:
    text = (ROOT / "README.md").read_text()
    tree = re.search(r"## The tree\n.*?```\n(.*?)```", text, re.S)
    assert tree is not None
    named = [line.split()[0] for line in tree[1].splitlines() if line.strip()]
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing
