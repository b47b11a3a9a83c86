"""Now: what a server does, as plain values, from one look and the one before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from carousel.cli.top_look import METRICS, Growth, Look

if TYPE_CHECKING:
    from carousel.client import Job, ServerInfo, SessionInfo

GATES = ("input", "forget", "output", "reset", "update")
STEP, TURN, BATCH = (
    f"carousel_{name}" for name in ("step_duration_seconds", "turn_duration_seconds",
                                    "turn_batch_size")
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Of one version, or of all. None: nothing came in the interval."""

    steps_per_second: float
    turns_per_second: float
    batch_size: float | None
    step_p50_seconds: float | None
    step_p99_seconds: float | None
    turn_seconds: float | None
    failed_per_second: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelNow:
    """A version that serves; `rates` are None until there are two looks, and all numbers where
    the caller may not see metrics."""

    name: str
    sessions: int | None
    waiting: int | None
    rates: Rates | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionNow:
    """A session, and how fast it steps."""

    session: SessionInfo
    steps_per_second: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateNow:
    """A gate of a model's layer, over its sampled steps."""

    model: str
    layer: int
    gate: str
    mean: float
    saturated: float | None
    drift: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """`trouble` says why nobody answered; all else is then empty. Sessions: the busiest first.

    `denied` says of parts that the caller may not see why; numbers of theirs are None.
    """

    target: str
    trouble: str = ""
    away_seconds: float = 0.0
    time: datetime | None = None
    server: ServerInfo | None = None
    rates: Rates | None = None
    sessions_parked: int | None = None
    waiting: int | None = None
    running: int | None = None
    failed: int | None = None
    models: tuple[ModelNow, ...] = ()
    sessions: tuple[SessionNow, ...] = ()
    jobs: tuple[Job, ...] = ()
    gates: tuple[GateNow, ...] = ()
    denied: Mapping[str, str] = field(default_factory=dict)


def now(target: str, seen: Look, before: Look | None) -> Now:
    """Rates need a look before at the same server: one that has begun anew counts from zero."""
    same = before is not None and before.info.instance_id == seen.info.instance_id
    growth = Growth(before, seen) if before is not None and same else None

    def value(*names: str) -> int | None:
        return None if METRICS in seen.denied else int(sum(map(seen.statistics.value, names)))

    return Now(
        target=target,
        time=seen.statistics.create_time,
        server=seen.info,
        rates=None if growth is None or METRICS in seen.denied else _rates(growth),
        sessions_parked=value("carousel_sessions_parked"),
        waiting=value("carousel_requests_waiting"),
        running=value("carousel_requests_running"),
        failed=value("carousel_steps_failed_total", "carousel_admission_rejected_total"),
        models=tuple(_model(name, seen, growth) for name in seen.info.ready_versions),
        sessions=_sessions(seen, before if same else None, growth),
        jobs=seen.jobs,
        gates=_gates(seen),
        denied=seen.denied,
    )


def _rates(growth: Growth, **labels: str) -> Rates:
    failed = ("carousel_steps_failed_total", "carousel_admission_rejected_total")
    own = {name: value for name, value in labels.items() if name == "model"}
    return Rates(
        steps_per_second=growth.rate("carousel_steps_total", **labels),
        turns_per_second=growth.rate(f"{TURN}_count", **labels),
        batch_size=growth.mean(BATCH, **labels),
        step_p50_seconds=growth.quantile(0.5, STEP, **labels),
        step_p99_seconds=growth.quantile(0.99, STEP, **labels),
        turn_seconds=growth.mean(TURN, **labels),
        failed_per_second=sum(growth.rate(name, **own) for name in failed),
        tokens_per_second=growth.rate("carousel_generated_tokens_total", **own),
    )


def _model(name: str, seen: Look, growth: Growth | None) -> ModelNow:
    model, version = name.removeprefix("models/").split("/versions/")
    labels = {"model": model, "version": version}
    if METRICS in seen.denied:
        return ModelNow(name=f"{model}/{version}", sessions=None, waiting=None, rates=None)
    return ModelNow(
        name=f"{model}/{version}",
        sessions=int(seen.statistics.value("carousel_sessions", **labels)),
        waiting=int(seen.statistics.value("carousel_requests_waiting", model=model)),
        rates=None if growth is None else _rates(growth, **labels),
    )


def _sessions(seen: Look, before: Look | None, growth: Growth | None) -> tuple[SessionNow, ...]:
    """The busiest first, those of about the same speed by their ids; then the last used."""
    former = {(one.tenant, one.name): one.step_index for one in before.sessions} if before else {}

    def speed(one: SessionInfo) -> float | None:
        if growth is None or (one.tenant, one.name) not in former:
            return None
        return max(0, one.step_index - former[one.tenant, one.name]) / growth.seconds

    found = [SessionNow(session=one, steps_per_second=speed(one)) for one in seen.sessions]
    found.sort(key=_place)
    return tuple(found)


def _place(one: SessionNow) -> tuple[int, float, str]:
    """By powers of two of the speed: places that changed with every look could not be read."""
    power = math.frexp(one.steps_per_second)[1] if one.steps_per_second else -1
    used = 0.0 if one.steps_per_second else one.session.last_use_time.timestamp()
    return -power, -used, one.session.id


def _gates(seen: Look) -> tuple[GateNow, ...]:
    def other(name: str, labels: dict[str, str]) -> float | None:
        return next((s.value for s in seen.samples(name, **labels)), None)

    found = []
    for sample in seen.samples("carousel_gate_activation_mean"):
        labels = dict(sample.labels)
        found.append(
            GateNow(
                model=labels["model"],
                layer=int(labels["layer"]),
                gate=labels["gate"],
                mean=sample.value,
                saturated=other("carousel_gate_saturation_ratio", labels),
                drift=other("carousel_gate_drift_psi", labels),
            )
        )
    order = {name: place for place, name in enumerate(GATES)}
    found.sort(key=lambda one: (one.model, one.layer, order.get(one.gate, len(order))))
    return tuple(found)
