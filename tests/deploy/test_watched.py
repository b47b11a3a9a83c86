"""A real server and a real Prometheus: no panel is empty, and each fault that is planted is an
alert, in a dashboard and on the page.

All of it is on one stand, since it takes long to begin. Half a minute is enough on a machine that
has nothing else to do; how long the faults took is told by `-s`.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from carousel.client import Client
from carousel.errors import SessionQuarantined
from carousel.server.training.process import signal_all
from tests.deploy import dashboards
from tests.deploy.dashboards import latest
from tests.deploy.models import FEATURES
from tests.deploy.prometheus import SCRAPE_SECONDS, Prometheus
from tests.deploy.stand import CAPACITY, Stand
from tests.page.browser import Browser, missing
from tests.processes import PATIENCE, until

# Panels that stay empty in a healthy run on a CPU, and why.
MAY_BE_EMPTY = {
    "Alerts that fire": "nothing is wrong",
    "Credentials refused, a second": "the server knows no callers",
    "Quotas in use": "there are no quotas",
    "Refused over a quota, a second": "there are no quotas",
    "GPU": "there is none",
    "GPU memory": "there is none",
}


@dataclass(frozen=True, slots=True)
class Ground:
    """Where faults are planted; what `held` closes is good again."""

    stand: Stand
    client: Client
    held: ExitStack


def not_finite(ground: Ground) -> None:
    """Rows of a model that overflow."""
    with ground.client.session("explosive") as session, pytest.raises(SessionQuarantined):
        session.chunk(np.full((8, FEATURES), 3e37, np.float32))


def saturated(ground: Ground) -> None:
    """Steps of a model whose gates are all open."""
    inputs = np.zeros((16, FEATURES), np.float32)
    with ground.client.session("stuck") as session:
        for x in inputs:
            session.step(x)


def drifted(ground: Ground) -> None:
    """Inputs far from those of the baseline."""
    load = ground.stand.load
    load.shift = 6.0
    ground.held.callback(setattr, load, "shift", 0.0)


def stuck(ground: Ground) -> None:
    """Processes of training jobs that stand still."""
    assert sum(signal_all(job, signal.SIGSTOP) for job in ground.stand.jobs) > 0
    for job in ground.stand.jobs:
        ground.held.callback(signal_all, job, signal.SIGCONT)


def full(ground: Ground) -> None:
    """Nearly as many sessions as there may be."""
    live = len(list(ground.client.list_sessions()))
    for _ in range(int(CAPACITY * 0.93) - live):
        ground.held.enter_context(ground.client.session("writer"))


def slow(ground: Ground) -> None:
    """A chunk of so many steps that its turn takes long: 0.3 s and more, on a fast core too."""
    with ground.client.session("long") as session:
        session.chunk(np.zeros((4096, FEATURES), np.float32), outputs="last")


@dataclass(frozen=True, slots=True, eq=False)
class Fault:
    """How it is planted, the labels of its alert, the panel that shows it by a number, and what it
    is called on the page."""

    plant: Callable[[Ground], None]
    alert: str
    labels: dict[str, str]
    board: str
    panel: str
    above: float
    hint: str

    def is_among(self, alerts: list[dict[str, str]]) -> bool:
        wanted = {"alertname": self.alert, **self.labels}.items()
        return any(wanted <= alert.items() for alert in alerts)


FAULTS = (
    Fault(
        not_finite,
        "CarouselNonFiniteRows",
        {"model": "explosive"},
        "gates",
        "Rows that are not finite, a second",
        0.0,
        "Quarantine",
    ),
    Fault(
        saturated,
        "CarouselGatesSaturated",
        {"model": "stuck", "layer": "0", "gate": "forget"},
        "gates",
        "Saturation",
        0.9,
        "Saturated",
    ),
    Fault(drifted, "CarouselInputDrift", {"model": "steady"}, "gates", "Drift", 0.5, "Drift"),
    Fault(
        stuck,
        "CarouselTrainingStuck",
        {"training_job": "endless"},
        "training",
        "Last sign of life",
        15.0,
        "Training",
    ),
    Fault(
        full,
        "CarouselSessionsNearCapacity",
        {},
        "sessions",
        "Capacity in use",
        0.9,
        "Near capacity",
    ),
    Fault(
        slow,
        "CarouselTurnSlow",
        {"model": "long"},
        "overview",
        "Duration of a turn",
        0.1,
        "Slow turns",
    ),
)
BUSY = {"CarouselStepSlow", "CarouselTurnSlow"}  # of a machine that others use too


def names(alerts: list[dict[str, str]]) -> set[str]:
    return {alert["alertname"] for alert in alerts}


def assert_quiet(prometheus: Prometheus, *, but: set[str]) -> None:
    """Nothing else fires, once what comes of a slow begin or a scrape without a core is over."""
    with suppress(AssertionError):  # what fires is told below
        until(lambda: names(prometheus.firing()) <= but)
    assert names(prometheus.firing()) <= but


@pytest.fixture
def ground(running_stand: Stand) -> Iterator[Ground]:
    target = running_stand.server.target
    with Client(target, timeout=PATIENCE) as client, ExitStack() as held:
        yield Ground(running_stand, client, held)


@pytest.fixture
def hints(running_stand: Stand) -> Iterator[Callable[[], set[str]] | None]:
    """What the page says needs attention; None where there is no browser to look with."""
    if missing():
        yield None
        return
    with Browser() as browser:
        browser.open(f"{running_stand.server.http}/")
        script = "[...document.querySelectorAll('#hints b')].map((one) => one.innerText)"
        yield lambda: set(browser.evaluate(script))


def test_a_server_and_its_api_have_the_same_target(running_stand: Stand) -> None:
    """Whatever their ports: so the one that is chosen is chosen in all panels."""
    running_stand.wait('carousel_exporter_up == on (target) up{job="carousel"}')
    running_stand.wait('carousel_model_ready == on (target) group_left () up{job="carousel"}')


@pytest.mark.parametrize("file", dashboards.files(), ids=lambda file: file.stem)
def test_no_panel_is_empty_and_legends_name_labels_of_their_series(
    running_stand: Stand, file: Path
) -> None:
    empty = {
        (panel.title, expr, legend)
        for panel in dashboards.panels(file)
        if panel.title not in MAY_BE_EMPTY
        for expr, legend in panel.queries
    }
    misnamed = set()

    def complete() -> bool:
        for title, expr, legend in sorted(empty):
            series = running_stand.prometheus.series(expr)
            if any(set(re.findall(r"{{(\w+)}}", legend)) - set(labels) for labels, _ in series):
                misnamed.add(title)
            if series:
                empty.remove((title, expr, legend))
        return not empty

    with suppress(AssertionError):  # what is empty is told below
        until(complete)
    assert not empty
    assert not misnamed


def test_every_planted_fault_is_seen_everywhere(
    running_stand: Stand, ground: Ground, hints: Callable[[], set[str]] | None
) -> None:
    prometheus = running_stand.prometheus
    running_stand.wait('carousel_training_last_event_timestamp_seconds{training_job="endless"}')
    running_stand.wait("carousel_gate_drift_psi")
    assert_quiet(prometheus, but=BUSY)
    hidden = set(FAULTS)
    unsaid = {fault.hint for fault in FAULTS} if hints else set()

    def visible() -> bool:
        """Whether every fault has been an alert, above its number in its panel, and on the page.

        They are planted again for every scrape, and no oftener: the rest needs the cores too.
        """
        time.sleep(SCRAPE_SECONDS)
        for fault in FAULTS:
            fault.plant(ground)
        firing = prometheus.firing()
        for fault in [fault for fault in hidden if fault.is_among(firing)]:
            if max(latest(prometheus, fault.board, fault.panel)) > fault.above:
                hidden.remove(fault)
        if hints:
            unsaid.difference_update(hints())
        return not hidden and not unsaid

    began = time.monotonic()
    with suppress(AssertionError):  # what is hidden is told below
        until(visible)
    assert not hidden
    assert not unsaid
    print(f"every fault was seen everywhere after {time.monotonic() - began:.0f} s")
    assert_quiet(prometheus, but={fault.alert for fault in FAULTS} | BUSY)
    if hints is None:
        pytest.skip(f"alerts and dashboards show all, the page was not looked at: {missing()}")
