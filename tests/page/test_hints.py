"""What needs attention: said when there is a cause, by the thresholds of the alerts.

That planted faults are said in time is tested with the alerts, in tests/deploy.
"""

from __future__ import annotations

import json

import pytest

from tests.page.browser import Browser


def server(**more: object) -> dict[str, object]:
    store = {"kind": "sqlite", "healthy": True, "message": "", "lag_steps": "0"}
    good = {"instance_id": "1", "device": "cpu", "draining": False, "max_sessions": "10"}
    return {**good, "store": store, **more}


def one(name: str, value: float, **labels: str) -> dict[str, object]:
    return {f"carousel_{name}": [{"labels": labels, "value": value}]}


FORGET = {"model": "a", "layer": "0", "gate": "forget"}
BROKEN = {"kind": "valkey", "healthy": False, "message": "it is gone", "lag_steps": "7"}


@pytest.mark.parametrize(
    ("state", "numbers", "said"),
    [
        ({}, {}, []),
        ({"draining": True}, {}, ["Draining"]),
        ({"store": BROKEN}, {}, ["Store"]),
        ({}, one("sessions", 9, model="a"), []),
        ({}, one("sessions", 10, model="a"), ["Near capacity"]),
        ({}, one("sessions_ended", 3, model="a", reason="closed"), []),
        ({}, one("sessions_ended", 3, model="a", reason="error"), ["Sessions lost"]),
        ({}, one("restore_failures", 1, model="a", reason="snapshot_damaged"), ["Restores"]),
        ({}, one("batch_audit_max_abs_difference", 9e-6, model="a"), []),
        ({}, one("batch_audit_max_abs_difference", 2e-5, model="a"), ["Batch audit"]),
        ({"device": "cuda:0"}, one("batch_audit_max_abs_difference", 2e-5, model="a"), []),
        ({}, one("training_last_event_timestamp_seconds", 90, training_job="a"), []),
        ({}, one("training_last_event_timestamp_seconds", 80, training_job="a"), ["Training"]),
        ({}, one("training_last_checkpoint_timestamp_seconds", 80, training_job="a"), []),
        ({}, one("gate_saturation_ratio", 0.89, **FORGET), []),
        ({}, one("gate_saturation_ratio", 0.91, **FORGET), ["Saturated"]),
    ],
)
def test_a_hint_comes_with_its_cause_and_not_before(
    browser: Browser, url: str, state: dict[str, object], numbers: object, said: list[str]
) -> None:
    """Two looks, from 50 to 100 seconds; at the first nothing was amiss."""
    if not browser.is_at(url):
        browser.open(url)
    looks = [
        {"time": 50, "server": server(), "numbers": {}},
        {"time": 100, "server": server(**state), "numbers": numbers},
    ]
    found = browser.evaluate(
        "Promise.all([import('/page/rates.js'), import('/page/hints.js')]).then(([r, h]) => {"
        " const history = new r.History();"
        f" for (const look of {json.dumps(looks)}) history.add(look);"
        " return h.hints(history).map(([, title]) => title); })"
    )
    assert found == said
