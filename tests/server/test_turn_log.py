"""The log of turns: whenever it is counted, all turns are, each once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from prometheus_client import CollectorRegistry, Histogram

from carousel.server.histogram import SECONDS
from carousel.server.metrics import Metrics

LABELS = {"model": "m", "version": "1"}
TIMES = ("step_queue_seconds", "step_duration_seconds", "step_compute_seconds")


@dataclass
class Work:
    arrived: float
    origin: Mapping[str, str] | None = None


Told = tuple[list[tuple[float, int]], float, bool]

# Works by how long ago they came and how many items of them rode; how long the turn took; and
# whether somebody looks then.
TURNS = some.lists(
    some.tuples(
        some.lists(
            some.tuples(some.sampled_from([1e-5, 3e-3, 0.7]), some.integers(0, 3)), max_size=12
        ),
        some.sampled_from([1e-4, 0.03]),
        some.booleans(),
    ),
    max_size=150,
)


@settings(deadline=None, max_examples=40)
@given(TURNS)
def test_turns_told_together_are_counted_like_each_alone(turns: list[Told]) -> None:
    metrics, truth = Metrics(), CollectorRegistry()
    log = metrics.version("m", 1).turns
    queue, duration, compute = (
        Histogram(name, "X.", buckets=SECONDS, registry=truth) for name in TIMES
    )
    steps = 0
    for works, took, looks in turns:
        items = [number for _, number in works]
        riders = [Work(100.0 - ago) for ago, _ in works]
        log.tell(
            riders, items, sum(items), sum(items), begin=100.0, computing=took / 2, end=100.0 + took
        )
        steps += sum(items)
        for work, number in zip(riders, items, strict=True):
            for _ in range(number):
                queue.observe(100.0 - work.arrived)
                duration.observe(100.0 + took - work.arrived)
                compute.observe(took / 2)
        if looks:
            metrics.registry.get_sample_value("carousel_steps_total", LABELS)
    value = metrics.registry.get_sample_value
    assert value("carousel_steps_total", LABELS) == steps
    assert value("carousel_turn_duration_seconds_count", LABELS) == len(turns)
    assert value("carousel_turn_batch_size_sum", LABELS) == steps
    assert _samples(metrics.registry, "carousel_") == pytest.approx(_samples(truth, ""))


def _samples(registry: CollectorRegistry, prefix: str) -> dict[tuple[str, float], float]:
    return {
        (sample.name.removeprefix(prefix), float(sample.labels.get("le", 0))): sample.value
        for family in registry.collect()
        if family.name.removeprefix(prefix) in TIMES
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_nothing_is_lost_while_several_look() -> None:
    metrics = Metrics()
    log = metrics.version("m", 1).turns
    over = threading.Event()
    seen: Counter[bool] = Counter()

    def look() -> None:
        before = 0.0
        while not over.is_set():
            now = metrics.registry.get_sample_value("carousel_steps_total", LABELS) or 0.0
            seen[now >= before] += 1
            before = now

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    for _ in range(5000):
        log.tell([Work(0.0)], None, 2, 2, begin=1.0, computing=0.5, end=2.0)
    over.set()
    for looker in lookers:
        looker.join()
    assert seen[False] == 0
    assert metrics.registry.get_sample_value("carousel_steps_total", LABELS) == 10_000
    assert metrics.registry.get_sample_value("carousel_step_queue_seconds_count", LABELS) == 10_000


def test_the_latest_of_the_slowest_in_each_bucket_can_be_found() -> None:
    metrics = Metrics()
    version = metrics.version("m", 1)

    def turn(*works: Work) -> None:
        version.turns.tell(works, None, len(works), len(works), begin=9.0, computing=0.1, end=10.0)

    turn(Work(9.5, {"request_id": "a"}), Work(9.2, {"request_id": "slowest"}))
    turn(Work(9.3, {"request_id": "later"}))
    turn(Work(9.3))
    turn(Work(5.5, {"request_id": "slow"}))
    version.turns.count()
    kept = {SECONDS[place]: one[1] for place, one in version.step_duration.exemplars.items()}
    assert kept == {1.0: {"request_id": "later"}, 5.0: {"request_id": "slow"}}
