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
CELL = {**FORGET, "gate": "cell"}
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
        ({}, one("sessions_ended", 3, model="a", reason="lifetime"), []),
        ({}, one("steps_failed", 3, model="a", reason="internal"), ["Internal errors"]),
        ({}, one("steps_failed", 3, model="a", reason="invalid_field"), []),
        ({}, one("turn_age_seconds", 9.9), []),
        ({}, one("turn_age_seconds", 10.1), ["Engine stuck"]),
        ({}, one("restore_failures", 1, model="a", reason="snapshot_damaged"), ["Restores"]),
        ({}, one("batch_audit_max_abs_difference", 9e-6, model="a"), []),
        ({}, one("batch_audit_max_abs_difference", 2e-5, model="a"), ["Batch audit"]),
        ({"device": "cuda:0"}, one("batch_audit_max_abs_difference", 2e-5, model="a"), []),
        ({}, one("training_last_event_timestamp_seconds", 90, training_job="a"), []),
        ({}, one("training_last_event_timestamp_seconds", 80, training_job="a"), ["Training"]),
        ({}, one("training_last_checkpoint_timestamp_seconds", 80, training_job="a"), []),
        ({}, one("gate_saturation_ratio", 0.89, **FORGET), []),
        ({}, one("gate_saturation_ratio", 0.91, **FORGET), ["Saturated"]),
        ({}, one("gate_drift_psi", 0.49, **FORGET), []),
        ({}, one("gate_drift_psi", 0.51, **FORGET), ["Drift"]),
        ({}, one("gate_drift_psi", 5, **CELL), []),
    ],
)
def test_a_hint_comes_with_its_cause_and_not_before(
    browser: Browser, url: str, state: dict[str, object], numbers: object, said: list[str]
) -> None:
    """One look at 100 seconds; five minutes before nothing was amiss."""
    look = {"time": 100, "server": server(**state), "numbers": numbers, "before": {}}
    assert titles(browser, url, look) == said


@pytest.mark.parametrize("name", ["sessions_ended", "restore_failures", "nonfinite_rows"])
def test_what_is_older_than_the_alerts_look_back_is_no_news(
    browser: Browser, url: str, name: str
) -> None:
    counter = one(name, 3, model="a", reason="error")
    look = {"time": 100, "server": server(), "numbers": counter, "before": counter}
    assert titles(browser, url, look) == []
    more = one(name, 4, model="a", reason="error")
    assert titles(browser, url, {**look, "numbers": more}) != []


def titles(browser: Browser, url: str, look: dict[str, object]) -> object:
    """Of the hints on this look, the first of the page."""
    if not browser.is_at(url):
        browser.open(url)
    return browser.evaluate(
        "Promise.all([import('/page/rates.js'), import('/page/hints.js')]).then(([r, h]) => {"
        " const history = new r.History();"
        f" history.add({json.dumps(look)});"
        " return h.hints(history).map(([, title]) => title); })"
    )
