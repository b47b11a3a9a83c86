"""The exporter: asks all servers when it is asked itself, and never in between."""

from __future__ import annotations

import threading
import time
from importlib.metadata import version

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from carousel import exposition
from carousel.exporter._asked import Asked
from carousel.exporter._targets import Targets

DNS_SHARE = 0.25  # of the time, for look-ups
PROMPTLY = 0.9  # of the time that Prometheus gives: the answer has a way to go, too
_TARGET = ("target",)


class Exporter:
    """Reads what servers count; every sample gets the label `target`.

    `timeout`, in seconds, is how long all of them together have at most. Safe to share.
    """

    def __init__(self, targets: Targets, *, timeout: float = 5.0) -> None:
        self._targets = targets
        self._timeout = timeout
        self._asked: dict[str, Asked] = {}
        self._leaving: list[Asked] = []  # somebody may be about to ask them
        self._lost: dict[str, int] = {}  # errors of names without addresses
        self._lock = threading.Lock()

    def read(self, patience: float | None = None) -> list[Metric]:
        """The families of all servers, and the exporter's own; within `patience` seconds."""
        seconds = self._timeout if patience is None else min(self._timeout, PROMPTLY * patience)
        end = time.monotonic() + seconds
        asked, lost = self._find(seconds * DNS_SHARE)
        questions = [(one, one.ask(end - time.monotonic())) for one in asked]
        up: dict[str, bool] = dict.fromkeys(lost, False)
        groups = []
        for one, question in questions:
            message = one.answer(question, end - time.monotonic())
            up[one.target] = message is not None
            if message is not None:
                groups.append(exposition.families(message, target=one.target))
        return exposition.merge([*groups, self._own(up, asked, lost)])

    def _find(self, seconds: float) -> tuple[list[Asked], dict[str, int]]:
        """The servers there are now, with a channel each, and errors by lost name."""
        doors, lost = self._targets.find(seconds)
        with self._lock:
            for one in self._leaving:
                one.close()
            self._leaving = [self._asked.pop(name) for name in self._asked.keys() - doors.keys()]
            for target in doors.keys() - self._asked.keys():
                self._asked[target] = Asked(doors[target])
            self._lost = {name: self._lost.get(name, 0) + 1 for name in lost}
            return [self._asked[target] for target in sorted(doors)], dict(self._lost)

    def _own(self, up: dict[str, bool], asked: list[Asked], lost: dict[str, int]) -> list[Metric]:
        answered = GaugeMetricFamily(
            "carousel_exporter_up", "1 if the target answered this scrape.", labels=_TARGET
        )
        took = GaugeMetricFamily(
            "carousel_exporter_scrape_seconds", "How long the target took.", labels=_TARGET
        )
        errors = CounterMetricFamily(
            "carousel_exporter_scrape_errors", "Scrapes it did not answer.", labels=_TARGET
        )
        for target, good in up.items():
            answered.add_metric((target,), float(good))
        for one in asked:
            took.add_metric((one.target,), one.seconds)
        for target, count in {**lost, **{one.target: one.errors for one in asked}}.items():
            errors.add_metric((target,), count)
        build = GaugeMetricFamily(
            "carousel_exporter_build_info", "1; the labels say what runs.", labels=("version",)
        )
        build.add_metric((version("carousel-rnn"),), 1)
        return [answered, took, errors, build]

    def close(self) -> None:
        """Let go of all connections."""
        self._targets.close()
        with self._lock:
            for one in (*self._asked.values(), *self._leaving):
                one.close()
