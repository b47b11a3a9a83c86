"""Every metric of the server, in one place; docs/metrics.md is made from it."""

from __future__ import annotations

import threading
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge

from carousel import errors
from carousel.server.access.metrics import AccessMetrics
from carousel.server.access_log.metrics import AccessLogMetrics
from carousel.server.audit.metrics import AuditMetrics
from carousel.server.door import QUEUE_FULL, SESSION_FULL, SHED, TENANT_FULL
from carousel.server.gates.metrics import GateMetrics
from carousel.server.health_policy import ACTIONS
from carousel.server.histogram import Child, Histogram
from carousel.server.resets.metrics import ResetMetrics
from carousel.server.rpc_metrics import RpcMetrics
from carousel.server.store_metrics import StoreMetrics
from carousel.server.training.metrics import TrainingMetrics
from carousel.server.turn_log import TurnLog, Uncounted

COUNTS = tuple(float(1 << power) for power in range(15))
STEPS = tuple(float(10**power) for power in range(8))

END_REASONS = ("closed", "idle", "lifetime", "evicted", "quarantined", "drained", "error")
REJECT_REASONS = (SESSION_FULL, TENANT_FULL, QUEUE_FULL, SHED)
PHASES = ("queue", "compute")
# What items are known to fail for, and what a session can't be brought back for; in small letters
# they are values of `reason`, there from the start.
ITEM_ERRORS = (
    errors.Cancelled,
    errors.ChunkTooLong,
    errors.DeadlineExceeded,
    errors.InternalError,
    errors.MixedModels,
    errors.NonFiniteInput,
    errors.NonFiniteResult,
    errors.QueueFull,
    errors.QuotaExceeded,
    errors.SealBroken,
    errors.SessionEnded,
    errors.SessionFenced,
    errors.SessionNotFound,
    errors.SessionQuarantined,
    errors.SnapshotMismatch,
    errors.StepConflict,
    errors.StepsLost,
    errors.StoreUnavailable,
    errors.TokenOutOfRange,
)
STRAY_ERRORS = (errors.SessionNotFound, errors.SessionEnded, errors.SessionFenced)
RESTORE_ERRORS = (
    errors.ModelNotFound,
    errors.ModelNotLoaded,
    errors.SnapshotDamaged,
    errors.SnapshotMismatch,
    errors.StepsLost,
    errors.VersionNotFound,
)

NONE = "none"  # the model, or version, of what belongs to none
_BY_MODEL = ("model",)
_BY_VERSION = ("model", "version")


class Metrics(RpcMetrics):
    """The families. Times are seconds, sizes bytes. One registry a server, none global.

    Whatever has a fixed set of labels has all its samples from the start.
    """

    def __init__(self) -> None:
        super().__init__(CollectorRegistry())
        self.uncounted = Uncounted(self.registry)
        self._ends = threading.Lock()
        self._models: set[str] = set()  # whose samples are there

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"carousel_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"carousel_{name}", text, labels, registry=self.registry)

        def seconds(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"carousel_{name}", text, labels, registry=self.registry)

        def numbers(name: str, text: str, bounds: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(
                f"carousel_{name}", text, labels, bounds=bounds, registry=self.registry
            )

        # Steps
        self.steps = counter("steps", "Steps committed.", *_BY_VERSION)
        self.steps_failed = counter(
            "steps_failed", "Items answered with an error.", *_BY_VERSION, "reason"
        )
        self.step_duration = seconds(
            "step_duration_seconds", "From a single step's arrival to its answer.", *_BY_VERSION
        )
        self.step_queue = seconds(
            "step_queue_seconds", "From a single step's arrival to its turn.", *_BY_VERSION
        )
        self.step_compute = seconds(
            "step_compute_seconds", "Time of the network in the turn of a step.", *_BY_VERSION
        )
        self.turn_batch_size = numbers("turn_batch_size", "Rows in a turn.", COUNTS, *_BY_VERSION)
        self.turn_duration = seconds("turn_duration_seconds", "Time of a turn.", *_BY_VERSION)
        self.duplicates = counter(
            "step_duplicates", "Steps answered again from memory.", *_BY_MODEL
        )
        self.conflicts = counter(
            "step_conflicts", "Steps refused for their index or handle.", *_BY_MODEL
        )
        self.stream_resumes = counter(
            "stream_resumes",
            "Sessions that went on in another stream, generations that were taken up again.",
            *_BY_MODEL,
        )
        self.rejected = counter(
            "admission_rejected", "Items refused because too many wait.", "model", "reason"
        )
        self.quota_refusals = counter(
            "quota_refusals", "Calls refused because a tenant is at its limit.", "tenant", "quota"
        )
        self.quota_usage = gauge("quota_usage", "What tenants use.", "tenant", "quota")
        self.quota_limit = gauge("quota_limit", "What tenants may use.", "tenant", "quota")
        self.deadline_dropped = counter(
            "deadline_dropped", "Items whose deadline passed first.", "model", "phase"
        )
        # Sessions
        self.sessions_created = counter("sessions_created", "Sessions made.", *_BY_MODEL)
        self.sessions_ended = counter("sessions_ended", "Sessions that ended.", "model", "reason")
        self.session_lifetime = numbers(
            "session_lifetime_seconds", "Age of sessions at their end.", STEPS, *_BY_MODEL
        )
        self.session_steps = numbers(
            "session_steps", "Steps of sessions at their end.", STEPS, *_BY_MODEL
        )
        self.nonfinite = counter(
            "nonfinite_rows", "Rows that became NaN or infinite; not committed.", *_BY_MODEL
        )
        self.quarantined = counter(
            "sessions_quarantined", "Sessions put into quarantine.", *_BY_MODEL
        )
        self.forks = counter("forks", "Copies made of sessions.", *_BY_MODEL)
        self.rewinds = counter("rewinds", "Rewinds of sessions.", *_BY_MODEL)
        self.snapshots = counter("snapshots", "Sessions written to the store.", *_BY_MODEL)
        self.restores = counter("restores", "Sessions brought back from the store.", *_BY_MODEL)
        self.restore_failures = counter(
            "restore_failures", "Sessions that could not be brought back.", "model", "reason"
        )
        self.parks = counter("session_parks", "Sessions moved off the device.", *_BY_MODEL)
        self.unparks = counter("session_unparks", "Sessions moved back to it.", *_BY_MODEL)
        self.prefix_hits = counter(
            "prefix_cache_hits", "Sessions whose prefix was not computed for them.", *_BY_MODEL
        )
        self.prefix_misses = counter(
            "prefix_cache_misses", "Sessions whose prefix was computed.", *_BY_MODEL
        )
        self.prefix_cache_bytes = gauge("prefix_cache_bytes", "Bytes of rows kept for prefixes.")
        # Numbers
        self.audits = counter("batch_audits", "Riders of turns run again alone.", *_BY_MODEL)
        self.audit_difference = gauge(
            "batch_audit_max_abs_difference",
            "Largest difference that company made to an audited row.",
            *_BY_MODEL,
        )
        self.health_actions = counter(
            "state_health_actions", "What health policies did to states.", "model", "action"
        )
        # Generation
        self.generated_tokens = counter("generated_tokens", "Tokens made.", *_BY_MODEL)
        self.first_token = seconds(
            "time_to_first_token_seconds", "From a request to its first token.", *_BY_MODEL
        )
        self.next_token = seconds(
            "time_per_output_token_seconds", "From token to token.", *_BY_MODEL
        )
        # Models and the server
        self.model_load = seconds("model_load_seconds", "Time to load and warm up.", *_BY_VERSION)
        self.model_ready = gauge("model_ready", "1 while a version serves.", *_BY_VERSION)
        self.model_info = gauge(
            "model_info",
            "1; the labels describe a version.",
            *_BY_VERSION,
            "cell",
            "layers",
            "hidden_size",
            "kernel",
            "device",
        )
        self.build_info = gauge("build_info", "1; the labels say what runs.", "version", "device")
        self.frontends = gauge("frontends", "Front ends that take calls now.")
        self.frontend_restarts = counter("frontend_restarts", "Front ends that ended.")
        self.store = StoreMetrics(self.registry)
        self.access = AccessMetrics(self.registry)
        self.audit = AuditMetrics(self.registry)
        self.access_log = AccessLogMetrics(self.registry)
        self.resets = ResetMetrics(self.registry)
        self.training = TrainingMetrics(self.registry)
        self.gates = GateMetrics(self.registry)
        for stray in STRAY_ERRORS:
            self.strayed(stray, 0)
        for kind in RESTORE_ERRORS:
            self.restore_failures.labels(NONE, kind.reason.lower())

    def strayed(self, kind: type[errors.CarouselError], count: int = 1) -> None:
        """Count items whose sessions are not here, so that nobody knows their model."""
        self.steps_failed.labels(NONE, NONE, kind.reason.lower()).inc(count)
        if issubclass(kind, errors.SessionFenced):
            self.conflicts.labels(NONE).inc(count)

    def restore_failed(self, error: errors.CarouselError, model: str = NONE) -> None:
        """Count a session that could not be brought back, unless trying again may help.

        One of a model of which no version has served counts for none: a sample that begins with 1
        would be no increase to Prometheus.
        """
        if isinstance(error, RESTORE_ERRORS):
            known = model if model in self._models else NONE
            self.restore_failures.labels(known, error.reason.lower()).inc()

    def session_ended(self, model: str, reason: str, *, steps: int, age: float) -> None:
        """Count the end of a session, here or at rest; `age` is in seconds."""
        with self._ends:  # of the engine's thread and the event loop's
            self.sessions_ended.labels(model, reason).inc()
            self.session_steps.labels(model).observe(steps)
            self.session_lifetime.labels(model).observe(age)

    def version(self, model: str, version: int) -> VersionMetrics:
        made = VersionMetrics(self, model, str(version))
        self._models.add(model)
        return made


class VersionMetrics:
    """The children of one model version, resolved once."""

    def __init__(self, metrics: Metrics, model: str, version: str) -> None:
        self._metrics = metrics
        self._labels = (model, version)
        self._own: list[tuple[Any, tuple[str, ...]]] = []  # families and labels, to remove
        self._removed = False
        self._lock = threading.Lock()
        self.turns = TurnLog(self)
        self._resolve_of_version(metrics)
        self._resolve_of_model(metrics, model)
        metrics.uncounted.logs.append(self.turns)

    def _resolve_of_version(self, metrics: Metrics) -> None:
        self.steps: Counter = self._child(metrics.steps)
        self.step_duration: Child = self._child(metrics.step_duration)
        self.step_queue: Child = self._child(metrics.step_queue)
        self.step_compute: Child = self._child(metrics.step_compute)
        self.turn_batch_size: Child = self._child(metrics.turn_batch_size)
        self.turn_duration: Child = self._child(metrics.turn_duration)
        self.model_load: Child = self._child(metrics.model_load)
        self.model_ready: Gauge = self._child(metrics.model_ready)
        self._failed: dict[str, Counter] = {
            kind.reason: self._child(metrics.steps_failed, kind.reason.lower())
            for kind in ITEM_ERRORS
        }

    def _resolve_of_model(self, metrics: Metrics, model: str) -> None:
        self.duplicates = metrics.duplicates.labels(model)
        self.conflicts = metrics.conflicts.labels(model)
        self.stream_resumes = metrics.stream_resumes.labels(model)
        self._rejected = {
            reason: metrics.rejected.labels(model, reason) for reason in REJECT_REASONS
        }
        self.deadline_queue, self.deadline_compute = (
            metrics.deadline_dropped.labels(model, phase) for phase in PHASES
        )
        self.created = metrics.sessions_created.labels(model)
        for reason in END_REASONS:
            metrics.sessions_ended.labels(model, reason)
        for family in (metrics.session_lifetime, metrics.session_steps):
            family.labels(model)
        self.nonfinite = metrics.nonfinite.labels(model)
        self.quarantined = metrics.quarantined.labels(model)
        self.forks = metrics.forks.labels(model)
        self.rewinds = metrics.rewinds.labels(model)
        self.snapshots = metrics.snapshots.labels(model)
        self.restores = metrics.restores.labels(model)
        for kind in RESTORE_ERRORS:
            metrics.restore_failures.labels(model, kind.reason.lower())
        self.parks = metrics.parks.labels(model)
        self.unparks = metrics.unparks.labels(model)
        self.prefix_hits = metrics.prefix_hits.labels(model)
        self.prefix_misses = metrics.prefix_misses.labels(model)
        self.audits = metrics.audits.labels(model)
        self.audit_difference = metrics.audit_difference.labels(model)
        self.health_actions = {
            action: metrics.health_actions.labels(model, action) for action in ACTIONS
        }
        self.generated_tokens = metrics.generated_tokens.labels(model)
        self.first_token = metrics.first_token.labels(model)
        self.next_token = metrics.next_token.labels(model)

    def _child(self, family: Any, *more: str) -> Any:
        labels = (*self._labels, *more)
        self._own.append((family, labels))
        return family.labels(*labels)

    def describe(self, *more: str) -> None:
        """Show the version, with these values of the labels of `model_info`."""
        self._child(self._metrics.model_info, *more).set(1)
        self.model_ready.set(1)

    def failed(self, reason: str, count: int = 1) -> None:
        """Count items answered with an error of this reason."""
        counter = self._failed.get(reason)
        if counter is None:
            with self._lock:
                if self._removed:
                    return  # nobody would take it away again
                counter = self._child(self._metrics.steps_failed, reason.lower())
                self._failed[reason] = counter
        counter.inc(count)

    def rejected(self, reason: str, count: int = 1) -> None:
        self._rejected[reason].inc(count)

    def restore_failed(self, error: errors.CarouselError) -> None:
        self._metrics.restore_failed(error, self._labels[0])

    def session_ended(self, reason: str, *, steps: int, age: float) -> None:
        self._metrics.session_ended(self._labels[0], reason, steps=steps, age=age)

    def remove(self) -> None:
        """Drop what is labelled with the version: it no longer serves."""
        with self._lock:
            self._removed = True
            self._metrics.uncounted.logs.remove(self.turns)
            for family, labels in self._own:
                family.remove(*labels)
