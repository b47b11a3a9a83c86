"""Metrics of training: jobs by state, and of each job that lives how well it learns."""

from __future__ import annotations

import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from carousel.server.histogram import Histogram
from carousel.server.training.records import ENDED, STATES, JobRecord, Object

NO_MODEL = "none"  # a job that promotes to no model


class TrainingMetrics:
    """The families. Gauges of a job are there while it lives on this server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"carousel_training_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"carousel_training_{name}", text, labels, registry=registry)

        self.jobs = gauge("jobs", "Jobs, of all servers that share the records.", "state")
        self.finished = counter("jobs_finished", "Jobs that this server saw end.", "state")
        self.steps = counter("steps", "Updates of weights.", "model")
        self.tokens = counter("tokens", "Sequence steps learned: tokens, readings.", "model")
        self.step_seconds = Histogram(
            "carousel_training_step_seconds",
            "Time of an update, a mean each progress.",
            ("model",),
            registry=registry,
        )
        self.nonfinite = counter(
            "nonfinite_steps", "Updates skipped for a loss that was NaN or infinite.", "model"
        )
        self.loss = gauge("loss", "Mean loss of the last steps, in nats.", "training_job")
        self.gradient_norm = gauge("gradient_norm", "Mean norm before clipping.", "training_job")
        self.clipped_ratio = gauge("clipped_ratio", "Share of updates clipped.", "training_job")
        self.horizon = gauge(
            "gradient_horizon_steps", "Steps that the gradient goes back.", "training_job"
        )
        self.checkpoint = gauge(
            "last_checkpoint_timestamp_seconds", "When a checkpoint was written.", "training_job"
        )
        self.event = gauge(
            "last_event_timestamp_seconds",
            "When the process of a job last told anything.",
            "training_job",
        )
        for state in STATES:
            self.jobs.labels(state)
        for state in ENDED:
            self.finished.labels(state)

    def count(self, jobs: Mapping[str, int]) -> None:
        for state, number in jobs.items():
            self.jobs.labels(state).set(number)

    def job(self, job: JobRecord) -> JobMetrics:
        return JobMetrics(self, job)


class JobMetrics:
    """What one job's events add; `remove` when it lives no more."""

    def __init__(self, metrics: TrainingMetrics, job: JobRecord) -> None:
        model = job.model or NO_MODEL
        self._gauges = (
            metrics.loss,
            metrics.gradient_norm,
            metrics.clipped_ratio,
            metrics.horizon,
            metrics.checkpoint,
        )
        self._job = job.id
        self._recipe = job.recipe
        self._loss, self._norm, self._clipped, self._horizon, self._checkpoint = (
            gauge.labels(job.id) for gauge in self._gauges
        )
        self._checkpoint.set(time.time())  # the age of a job without one counts from its start
        self._event = metrics.event  # there from the first event on: preparing tells of none
        if job.said is not None:
            self._event.labels(job.id).set(time.time())
        self._steps = metrics.steps.labels(model)
        self._tokens = metrics.tokens.labels(model)
        self._step_seconds = metrics.step_seconds.labels(model)
        self._nonfinite = metrics.nonfinite.labels(model)
        self._before: Object | None = None

    def take_in(self, event: Object) -> None:
        self._event.labels(self._job).set(event["time"])
        match event["type"]:
            case "started":
                self._before = event | {"nonfinite_steps": 0}
            case "progress":
                self._loss.set(_number(event["loss"]))
                self._norm.set(_number(event["gradient_norm"]))
                self._clipped.set(_number(event["clipped_ratio"]))
                self._count(event)
            case "gradients":
                self._horizon.set(max(layer["horizon"] for layer in event["layers"]))
            case "checkpoint":
                self._checkpoint.set(event["time"])

    def _count(self, event: Object) -> None:
        """Add what came since the progress before; of a job taken over, from its next one on."""
        before, self._before = self._before, event
        if before is None or event["step"] <= before["step"]:
            return
        steps, seconds = event["step"] - before["step"], event["time"] - before["time"]
        self._steps.inc(steps)
        self._step_seconds.observe(max(seconds, 0.0) / steps)
        self._tokens.inc(self._learned(steps, seconds, event))
        self._nonfinite.inc(max(0, event["nonfinite_steps"] - before["nonfinite_steps"]))

    def _learned(self, steps: int, seconds: float, event: Object) -> float:
        """Sequence steps in so many updates; of whole sequences, which differ, by their speed."""
        if self._recipe["task"]["type"] in ("language_model", "forecast"):
            return float(steps * self._recipe["batch_size"] * self._recipe["window"])
        return max(seconds, 0.0) * _number(event["steps_per_second"])

    def starts(self) -> None:
        """Its process starts: it is silent until everything is loaded."""
        self._event.remove(self._job)

    def remove(self) -> None:
        for gauge in (*self._gauges, self._event):
            gauge.remove(self._job)


def _number(value: float | None) -> float:
    """JSON has no NaN: there it is null."""
    return float("nan") if value is None else value
