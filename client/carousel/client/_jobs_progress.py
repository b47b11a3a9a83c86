"""What a job tells of itself, as plain values: progress, evaluations, gradients, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from carousel.client._times import to_datetime
from carousel.client._training_messages import read, word
from carousel.v1 import training_pb2 as pb


class JobState(StrEnum):
    """Where a job stands; the last three are its end."""

    QUEUED = "queued"
    PREPARING = "preparing"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is.

    `loss` is the mean since the last progress: nats a token, squared error in units of the
    normalised targets, or nats a label. `gradient_norm` is that before clipping,
    `clipped_ratio` the share of clipped updates, `steps_per_second` counts sequence steps
    (tokens, readings), `nonfinite_steps` the updates that were skipped.
    """

    step: int = 0
    max_steps: int = 0
    epoch: float = 0.0
    loss: float = 0.0
    gradient_norm: float = 0.0
    clipped_ratio: float = 0.0
    learning_rate: float = 0.0
    steps_per_second: float = 0.0
    nonfinite_steps: int = 0
    remaining_time: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a model is worth on data that it has not learned from.

    `split` is validation or test. `metrics` are in the order of their names: accuracy, mae, mase,
    perplexity, ...; with the prefix `naive_` those of the baseline.
    """

    step: int = 0
    split: str = ""
    loss: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    best: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGradients:
    """How the gradient travels back through time in one layer, the lowest is 0.

    `hidden_norms` and `cell_norms` (LSTM) are by lag. `horizon` counts the steps back until the
    norm is under 1 % of that at lag 0. `forget_histogram` has shares of tenths.
    """

    layer: int = 0
    hidden_norms: tuple[float, ...] = ()
    cell_norms: tuple[float, ...] = ()
    horizon: int = 0
    forget_mean: float | None = None
    forget_histogram: tuple[float, ...] = ()
    spectral_radius: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientFlow:
    """The gradients of a window; `verdict` is a sentence for people."""

    step: int = 0
    layers: tuple[LayerGradients, ...] = ()
    vanishing: bool = False
    exploding: bool = False
    clipped_ratio: float = 0.0
    verdict: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A moment of a job from which it can go on."""

    name: str
    step: int = 0
    validation_loss: float | None = None
    best: bool = False
    size_bytes: int = 0
    create_time: datetime


@dataclass(frozen=True, slots=True)
class JobWarning:
    """Something that a person should know."""

    message: str


What = JobState | Progress | Evaluation | GradientFlow | Checkpoint | JobWarning
Kind = Literal["state", "progress", "evaluation", "gradients", "checkpoint", "warning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """Something that happened to a job; `what` is a value of the class that `kind` tells.

    `sequence` counts from 1 without gaps, `attempt` from 1.
    """

    sequence: int
    time: datetime
    attempt: int
    kind: Kind
    what: What


def progress(message: pb.Progress) -> Progress:
    return read(Progress, message)


def evaluation(message: pb.Evaluation) -> Evaluation:
    return read(Evaluation, message, metrics=dict(sorted(message.metrics.items())))


def gradients(message: pb.GradientFlow) -> GradientFlow:
    layers = tuple(
        read(
            LayerGradients,
            one,
            hidden_norms=tuple(one.hidden_norms),
            cell_norms=tuple(one.cell_norms),
            forget_histogram=tuple(one.forget_histogram),
        )
        for one in message.layers
    )
    return read(GradientFlow, message, layers=layers)


def checkpoint(message: pb.Checkpoint) -> Checkpoint:
    return read(
        Checkpoint, message, name=message.name, create_time=to_datetime(message.create_time)
    )


def state(number: int) -> JobState:
    return JobState(word(pb.JobState.DESCRIPTOR, number))


def event(message: pb.JobEvent) -> JobEvent | None:
    """None for a kind that a newer server may know."""
    kind = message.WhichOneof("event")
    what: What
    match kind:
        case "state":
            what = state(message.state)
        case "progress":
            what = progress(message.progress)
        case "evaluation":
            what = evaluation(message.evaluation)
        case "gradients":
            what = gradients(message.gradients)
        case "checkpoint":
            what = checkpoint(message.checkpoint)
        case "warning":
            what = JobWarning(message.warning)
        case _:
            return None
    return JobEvent(
        sequence=message.sequence,
        time=to_datetime(message.event_time),
        attempt=message.attempt,
        kind=kind,
        what=what,
    )
