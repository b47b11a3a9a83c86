"""The dashboards: as their source has them, of metrics that there are."""

from __future__ import annotations

import subprocess
from pathlib import Path
from shutil import which

import pytest
import yaml
from tools.dashboards.__main__ import BOARDS, text
from tools.dashboards.promql import share

from tests.deploy import dashboards
from tests.deploy.metric_names import unknown
from tests.processes import PATIENCE

ROOT = Path(__file__).parents[2]
PROVISIONING = ROOT / "deploy/grafana/provisioning"


def test_dashboards_are_as_their_source_makes_them() -> None:
    """`python -m tools.dashboards` writes them."""
    assert {file.stem: file.read_text() for file in dashboards.files()} == {
        board.id: text(board) for board in BOARDS
    }


def test_dashboards_are_told_apart_and_panels_do_not_overlap() -> None:
    boards = [dashboards.load(file) for file in dashboards.files()]
    assert len({board["uid"] for board in boards}) == len(boards)
    for board in boards:
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, panel["title"]
            assert max(x for x, _ in cells) < 24
            taken |= cells
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_panels_ask_for_metrics_that_there_are() -> None:
    for file in dashboards.files():
        for panel in dashboards.panels(file):
            for expr, _ in panel.queries:
                assert not unknown(expr), f"{file.stem}, {panel.title}"


@pytest.mark.skipif(which("promtool") is None, reason="apt-get install prometheus")
@pytest.mark.parametrize(
    ("failed", "committed", "shown"),
    [("0+5x12", "0x12", 1.0), ("0+5x12", "0+15x12", 0.25), ("0x12", "0x12", 0.0)],
)
def test_the_share_that_fails_is_of_all_items(
    tmp_path: Path, failed: str, committed: str, shown: float
) -> None:
    """All of them where nothing is committed, never more; none of a server that rests."""
    labels = '{target="a", model="m"}'
    series = {"carousel_steps_failed_total": failed, "carousel_steps_total": committed}
    test = {
        "interval": "5s",
        "input_series": [{"series": name + labels, "values": series[name]} for name in series],
        "promql_expr_test": [
            {
                "expr": dashboards.fill(share(*series)),
                "eval_time": "1m",
                "exp_samples": [{"labels": "{}", "value": shown}],
            }
        ],
    }
    file = tmp_path / "share.yml"
    file.write_text(yaml.safe_dump({"tests": [test]}))
    ran = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, timeout=PATIENCE
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_provisioning_leads_to_the_dashboards_and_their_datasource() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    for file in dashboards.files():
        first = dashboards.load(file)["templating"]["list"][0]
        assert (first["name"], first["current"]["value"]) == ("datasource", source["uid"])
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards/carousel.yml").read_text())[
        "providers"
    ]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    mounts = [volume.split(":") for volume in compose["services"]["grafana"]["volumes"]]
    assert ["./deploy/grafana/dashboards", provider["options"]["path"], "ro"] in mounts
    assert ["./deploy/grafana/provisioning", "/etc/grafana/provisioning", "ro"] in mounts
