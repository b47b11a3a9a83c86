"""Metrics of training against what a job told."""

from __future__ import annotations

import math
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from carousel.server.training.metrics import TrainingMetrics
from carousel.server.training.records import JobRecord

BATCH, WINDOW = 4, 12


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def event(kind: str, step: int, time: float, **values: Any) -> dict[str, Any]:
    return {"type": kind, "step": step, "time": time, "attempt": 1, **values}


def progress(step: int, time: float, loss: float | None, nonfinite: int) -> dict[str, Any]:
    values = {"gradient_norm": loss, "clipped_ratio": 0.25, "steps_per_second": 100.0}
    return event("progress", step, time, loss=loss, nonfinite_steps=nonfinite, **values)


EVENTS = [
    event("started", 0, 100.0),
    progress(10, 102.0, 3.0, 0),
    event("gradients", 10, 102.0, layers=[{"horizon": 7}, {"horizon": 9}]),
    event("checkpoint", 10, 103.0),
    progress(30, 106.0, None, 2),
    progress(20, 107.0, 2.5, 2),  # it was rolled back
    progress(40, 109.0, 2.0, 3),
]


@pytest.mark.parametrize(
    ("task", "tokens"),
    [
        ("forecast", (10 + 20 + 20) * BATCH * WINDOW),
        ("classify", (2.0 + 4.0 + 2.0) * 100.0),  # sequences differ: seconds by their speed
    ],
)
def test_what_a_job_told_is_what_is_counted(
    registry: CollectorRegistry, task: str, tokens: float
) -> None:
    recipe = {"task": {"type": task}, "batch_size": BATCH, "window": WINDOW}
    metrics = TrainingMetrics(registry)
    job = metrics.job(JobRecord(id="j", model="m", recipe=recipe))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"carousel_training_{name}", labels)

    for one in EVENTS[:5]:
        job.take_in(one)
    assert math.isnan(value("loss", training_job="j") or 0.0)
    for one in EVENTS[5:]:
        job.take_in(one)
    assert value("steps_total", model="m") == 10 + 20 + 20
    assert value("tokens_total", model="m") == pytest.approx(tokens)
    assert value("step_seconds_count", model="m") == 3
    assert value("step_seconds_sum", model="m") == pytest.approx(0.2 + 0.2 + 0.1)
    assert value("nonfinite_steps_total", model="m") == 3
    gauges = {
        "loss": 2.0,
        "gradient_norm": 2.0,
        "clipped_ratio": 0.25,
        "gradient_horizon_steps": 9,
        "last_checkpoint_timestamp_seconds": 103.0,
    }
    assert {name: value(name, training_job="j") for name in gauges} == gauges
    job.remove()
    assert not [
        sample
        for family in registry.collect()
        for sample in family.samples
        if "training_job" in sample.labels
    ]
    assert value("steps_total", model="m") == 50
