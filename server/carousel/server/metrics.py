"""Every metric of the server, in one place; docs/metrics.md is made from it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Info

from carousel.server.audit.metrics import AuditMetrics
from carousel.server.door import QUEUE_FULL, SESSION_FULL, SHED, TENANT_FULL
from carousel.server.gates.metrics import GateMetrics
from carousel.server.health_policy import ACTIONS
from carousel.server.histogram import Histogram
from carousel.server.store_metrics import StoreMetrics
from carousel.server.training.metrics import TrainingMetrics

COUNTS = tuple(float(1 << power) for power in range(15))
STEPS = tuple(float(10**power) for power in range(8))
TOKEN_SECONDS = (1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

END_REASONS = ("closed", "idle", "lifetime", "evicted", "quarantined", "drained", "error")
REJECT_REASONS = (SESSION_FULL, TENANT_FULL, QUEUE_FULL, SHED)
_BY_MODEL = ("model",)
_BY_VERSION = ("model", "version")


class Metrics:
    """The families. Times are seconds, sizes bytes. One registry a server, none global."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

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
            "steps_failed", "Items refused or failed.", *_BY_VERSION, "reason"
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
        self.rejected = counter(
            "admission_rejected", "Items refused because too many wait.", "model", "reason"
        )
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
        self.first_token = numbers(
            "time_to_first_token_seconds",
            "From a request to its first token.",
            TOKEN_SECONDS,
            *_BY_MODEL,
        )
        self.next_token = numbers(
            "time_per_output_token_seconds", "From token to token.", TOKEN_SECONDS, *_BY_MODEL
        )
        # Models and the server
        self.model_load = numbers(
            "model_load_seconds", "Time to load and warm up.", TOKEN_SECONDS, *_BY_VERSION
        )
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
        self.build_info = Info("carousel_build", "What runs.", registry=self.registry)
        self.store = StoreMetrics(self.registry)
        self.audit = AuditMetrics(self.registry)
        self.training = TrainingMetrics(self.registry)
        self.gates = GateMetrics(self.registry)
        # gRPC, under the names that public dashboards know
        method = ("grpc_type", "grpc_service", "grpc_method")
        self.rpc_started = Counter(
            "grpc_server_started", "Calls begun.", method, registry=self.registry
        )
        self.rpc_handled = Counter(
            "grpc_server_handled", "Calls done.", (*method, "grpc_code"), registry=self.registry
        )
        self.rpc_received = Counter(
            "grpc_server_msg_received", "Messages received.", method, registry=self.registry
        )
        self.rpc_sent = Counter(
            "grpc_server_msg_sent", "Messages sent.", method, registry=self.registry
        )
        self.rpc_seconds = Histogram(
            "grpc_server_handling_seconds", "Time of calls.", method, registry=self.registry
        )

    def version(self, model: str, version: int) -> VersionMetrics:
        return VersionMetrics(self, model, str(version))


class VersionMetrics:
    """The children of one model version, resolved once."""

    def __init__(self, metrics: Metrics, model: str, version: str) -> None:
        self._metrics = metrics
        self._labels = (model, version)
        both = self._labels
        self.steps = metrics.steps.labels(*both)
        self.step_duration = metrics.step_duration.labels(*both)
        self.step_queue = metrics.step_queue.labels(*both)
        self.step_compute = metrics.step_compute.labels(*both)
        self.turn_batch_size = metrics.turn_batch_size.labels(*both)
        self.turn_duration = metrics.turn_duration.labels(*both)
        self.duplicates = metrics.duplicates.labels(model)
        self.conflicts = metrics.conflicts.labels(model)
        self._rejected = {
            reason: metrics.rejected.labels(model, reason) for reason in REJECT_REASONS
        }
        self.deadline_queue = metrics.deadline_dropped.labels(model, "queue")
        self.deadline_compute = metrics.deadline_dropped.labels(model, "compute")
        self.created = metrics.sessions_created.labels(model)
        self.ended = {
            reason: metrics.sessions_ended.labels(model, reason) for reason in END_REASONS
        }
        self.session_lifetime = metrics.session_lifetime.labels(model)
        self.session_steps = metrics.session_steps.labels(model)
        self.nonfinite = metrics.nonfinite.labels(model)
        self.quarantined = metrics.quarantined.labels(model)
        self.forks = metrics.forks.labels(model)
        self.rewinds = metrics.rewinds.labels(model)
        self.snapshots = metrics.snapshots.labels(model)
        self.restores = metrics.restores.labels(model)
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
        self.model_load = metrics.model_load.labels(*both)
        self.model_ready = metrics.model_ready.labels(*both)

    def failed(self, reason: str, count: int = 1) -> None:
        self._metrics.steps_failed.labels(*self._labels, reason.lower()).inc(count)

    def rejected(self, reason: str, count: int = 1) -> None:
        self._rejected[reason].inc(count)

    def remove(self) -> None:
        """Drop what is labelled with the version: it no longer serves."""
        of_version = self._metrics
        for family in (
            of_version.steps,
            of_version.model_ready,
            of_version.step_duration,
            of_version.step_queue,
            of_version.step_compute,
            of_version.turn_batch_size,
            of_version.turn_duration,
            of_version.model_load,
        ):
            family.remove(*self._labels)
        for labelled in (of_version.steps_failed, of_version.model_info):
            labelled.remove_by_labels({"model": self._labels[0], "version": self._labels[1]})
