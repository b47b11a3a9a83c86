"""Those who ask for metrics at once share them, and nobody gets what is older than the question."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from email.message import Message

import pytest
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from carousel.exposition import Request, Route, routes
from carousel.exposition._shared import Shared
from tests.exporter.scrape import OPENMETRICS
from tests.processes import PATIENCE, until


class Key(str):
    """Counts its look-ups, which happen once somebody's question is taken."""

    asked = 0

    def __hash__(self) -> int:
        Key.asked += 1
        return super().__hash__()


def test_all_who_ask_while_one_is_made_share_the_next() -> None:
    shared: Shared[int] = Shared()
    numbers, begun, leave = itertools.count(1), threading.Event(), threading.Event()

    def make() -> int:
        begun.set()
        assert leave.wait(PATIENCE)
        return next(numbers)

    with ThreadPoolExecutor(21) as pool:
        first = pool.submit(shared.value, "metrics", make)
        assert begun.wait(PATIENCE)
        later = [pool.submit(shared.value, Key("metrics"), make) for _ in range(20)]
        until(lambda: Key.asked >= 2 * len(later))  # each looks, and takes its place
        leave.set()
        assert first.result(PATIENCE) == 1
        assert [one.result(PATIENCE) for one in later] == [2] * 20
    assert shared.value("metrics", make) == 3  # nothing that was made before is told again


def test_a_failure_is_that_of_all_who_share_it_and_of_nobody_later() -> None:
    shared: Shared[int] = Shared()
    with pytest.raises(ZeroDivisionError):
        shared.value("metrics", lambda: 1 // 0)
    assert shared.value("metrics", lambda: 1) == 1


@pytest.fixture
def metrics() -> Route:
    """Their value is how often they were read."""
    numbers = itertools.count(1)

    def read(patience: float | None) -> list[Metric]:
        return [GaugeMetricFamily("carousel_reads", "Reads.", value=next(numbers))]

    return routes(read, lambda: True, shared=True)["/metrics"]


def asked(accept: str = "") -> Request:
    headers = Message()
    headers["Accept"] = accept
    return Request("/metrics", {}, headers)


def test_formats_are_not_mixed_up(metrics: Route) -> None:
    accepted = ["", OPENMETRICS] * 10
    with ThreadPoolExecutor(20) as pool:
        for accept, answer in zip(accepted, pool.map(metrics, map(asked, accepted)), strict=True):
            assert ("openmetrics" in answer.kind) == (accept == OPENMETRICS)
            assert answer.body.endswith(b"# EOF\n") == (accept == OPENMETRICS)


def test_each_of_two_scrapes_in_a_row_is_read_anew(metrics: Route) -> None:
    assert b"carousel_reads 1.0" in metrics(asked()).body
    assert b"carousel_reads 2.0" in metrics(asked()).body
