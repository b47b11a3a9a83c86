"""Faults planted into a real server: each is an alert, and in a dashboard, within 30 seconds."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from carousel.client import Client
from carousel.errors import SessionQuarantined
from carousel.server.training.process import signal_all
from tests.deploy.dashboards import latest
from tests.deploy.models import FEATURES
from tests.deploy.stand import CAPACITY, Stand
from tests.processes import until

SECONDS = 30.0


def not_finite(client: Client, held: ExitStack) -> None:
    """Rows of a model that overflow."""
    session = held.enter_context(client.session("explosive"))
    with pytest.raises(SessionQuarantined):
        session.chunk(np.full((8, FEATURES), 3e37, np.float32))


def saturated(client: Client, held: ExitStack) -> None:
    """Steps of a model whose gates are all open."""
    _step(client, "stuck", 0.0)


def drifted(client: Client, held: ExitStack) -> None:
    """Inputs far from those of the baseline."""
    _step(client, "steady", 6.0)


def _step(client: Client, model: str, mean: float) -> None:
    inputs = np.random.default_rng(1).standard_normal((64, FEATURES)).astype(np.float32) + mean
    sessions = [client.session(model) for _ in range(4)]
    for x in inputs:
        client.step_many([(session, x) for session in sessions])
    for session in sessions:
        session.close()


def full(client: Client, held: ExitStack) -> None:
    """Nearly as many sessions as there may be."""
    live = len(list(client.list_sessions()))
    for _ in range(int(CAPACITY * 0.93) - live):
        held.enter_context(client.session("writer"))


def slow(client: Client, held: ExitStack) -> None:
    """A chunk of so many steps that its turn takes long."""
    with client.session("long") as session:
        session.chunk(np.zeros((4096, FEATURES), np.float32), outputs="last")


@dataclass(frozen=True, slots=True)
class Fault:
    """How it is planted again and again, the labels of its alert, and the panel that shows it."""

    plant: Callable[[Client, ExitStack], None]
    alert: dict[str, str]
    board: str
    panel: str
    above: float


FAULTS = (
    Fault(
        not_finite,
        {"alertname": "CarouselNonFiniteRows", "model": "explosive"},
        "gates",
        "Rows that are not finite, a second",
        0.0,
    ),
    Fault(
        saturated,
        {"alertname": "CarouselGatesSaturated", "model": "stuck", "layer": "0", "gate": "forget"},
        "gates",
        "Saturation",
        0.9,
    ),
    Fault(drifted, {"alertname": "CarouselInputDrift", "model": "steady"}, "gates", "Drift", 0.25),
    Fault(full, {"alertname": "CarouselSessionsNearCapacity"}, "sessions", "Capacity in use", 0.9),
    Fault(
        slow,
        {"alertname": "CarouselTurnSlow", "model": "long"},
        "overview",
        "Duration of a turn",
        0.1,
    ),
)
STUCK = {"alertname": "CarouselTrainingStuck", "training_job": "endless"}
CONSEQUENCES = {"CarouselSessionsLost"}  # of a session in quarantine
BUSY = {"CarouselStepSlow", "CarouselTurnSlow"}  # of a machine that others use too


def matches(wanted: dict[str, str], alerts: list[dict[str, str]]) -> bool:
    return any(wanted.items() <= alert.items() for alert in alerts)


@contextmanager
def stopped(jobs: list[Path]) -> Iterator[None]:
    """The processes of training jobs, stopped for a while."""
    assert sum(signal_all(job, signal.SIGSTOP) for job in jobs) > 0
    try:
        yield
    finally:
        for job in jobs:
            signal_all(job, signal.SIGCONT)


@pytest.fixture
def client(running_stand: Stand) -> Iterator[Client]:
    with Client(running_stand.server.target, timeout=30) as client:
        yield client


def test_every_planted_fault_is_an_alert_and_in_a_dashboard_within_30_seconds(
    running_stand: Stand, client: Client
) -> None:
    prometheus = running_stand.prometheus
    running_stand.wait('carousel_training_last_event_timestamp_seconds{training_job="endless"}')
    running_stand.wait("carousel_gate_drift_psi")
    wanted = [STUCK, *(fault.alert for fault in FAULTS)]
    assert {alert["alertname"] for alert in prometheus.firing()} <= BUSY
    begin = time.monotonic()
    with ExitStack() as held:
        held.enter_context(stopped(running_stand.jobs))

        def visible() -> bool:
            for fault in FAULTS:
                fault.plant(client, held)
            firing = prometheus.firing()
            return all(matches(alert, firing) for alert in wanted)

        until(visible, SECONDS)
        assert time.monotonic() - begin < SECONDS
        for fault in FAULTS:
            assert max(latest(prometheus, fault.board, fault.panel)) > fault.above, fault.panel
        names = {alert["alertname"] for alert in prometheus.firing()}
        assert names <= {alert["alertname"] for alert in wanted} | CONSEQUENCES | BUSY
