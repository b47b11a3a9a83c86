"""Alerts and recording rules: what promtool says, and that nothing about an alert is missing."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import yaml

from tests.deploy.metric_names import unknown
from tests.processes import PATIENCE

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/prometheus"
RUNBOOK = "docs/operations.md"


def rules(file: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "rules" / file).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules("alerts.yml")}
UNIT_TESTS = [
    test
    for file in sorted((FOLDER / "tests").glob("*.yml"))
    for group in yaml.safe_load(file.read_text())["tests"]
    for test in group.get("alert_rule_test", ())
]


def paragraphs() -> dict[str, str]:
    """The runbook: what stands under each heading of an alert, by its anchor."""
    parts = re.split(r"^#{2,3} (.+)$", (ROOT / RUNBOOK).read_text(), flags=re.M)[1:]
    return {
        title.lower(): text.strip() for title, text in zip(parts[::2], parts[1::2], strict=True)
    }


@pytest.mark.skipif(which("promtool") is None, reason="apt-get install prometheus")
@pytest.mark.parametrize("words", ["check config prometheus.yml", "test rules"])
def test_promtool_finds_nothing_wrong(words: str) -> None:
    command = ["promtool", *words.split()]
    if "test" in command:
        command += sorted(map(str, (FOLDER / "tests").glob("*.yml")))
    ran = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=PATIENCE)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_unit_tests_evaluate_what_is_recorded_before_what_asks_for_it() -> None:
    """promtool takes groups that are not named in any order."""
    names = [
        group["name"]
        for file in ("recording.yml", "alerts.yml")
        for group in yaml.safe_load((FOLDER / "rules" / file).read_text())["groups"]
    ]
    for file in (FOLDER / "tests").glob("*.yml"):
        assert yaml.safe_load(file.read_text())["group_eval_order"] == names


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_tested_both_ways(alert: str) -> None:
    tests = [test for test in UNIT_TESTS if test["alertname"] == alert]
    assert any(test.get("exp_alerts") for test in tests), "it never fires"
    assert any(not test.get("exp_alerts") for test in tests), "it is never silent"


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_what_it_means_and_where_to_read_on(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"{RUNBOOK}#{alert.lower()}"
    assert len(paragraphs()[alert.lower()].split()) > 40


def test_the_runbook_is_of_alerts_that_there_are() -> None:
    named = {title for title in paragraphs() if re.fullmatch(r"carousel[a-z]+", title)}
    assert named == {alert.lower() for alert in ALERTS}


def test_rules_ask_for_metrics_that_there_are() -> None:
    for file in ("alerts.yml", "recording.yml"):
        for rule in rules(file):
            assert not unknown(rule["expr"]), rule


def test_names_of_recording_rules_are_level_metric_operation() -> None:
    for rule in rules("recording.yml"):
        assert re.fullmatch(r"[a-z_]+:[a-z_]+:[a-z0-9_]+", rule["record"])
