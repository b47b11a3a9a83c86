"""Health policies: the rules for the states of a model's sessions, and what became of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from carousel.errors import InvalidField
from carousel.v1 import inference_service_pb2 as inference_pb
from carousel.v1 import model_pb2

HealthMetric = Literal["state_norm", "saturation", "age"]
HealthAction = Literal["alert", "clip", "soft_reset", "reset"]


@dataclass(frozen=True, slots=True)
class HealthRule:
    """What happens to a session's state when `metric` is above `threshold`, after any step.

    state_norm: the largest L2 norm among h and c of each layer. saturation: the share of units, 0
    to 1, in the flat part of their activation. age: steps taken; it fires at every multiple of the
    threshold.

    alert: nothing but the event that each action is. clip, with state_norm only: every vector
    above the threshold is scaled back to it. soft_reset: half way to the initial state. reset:
    to the initial state.
    """

    metric: HealthMetric
    threshold: float
    action: HealthAction


@dataclass(frozen=True, slots=True)
class StateNotice:
    """That a rule fired: after `count` steps of one call, first after `step_index`.

    `value` is the largest that it fired at.
    """

    action: HealthAction
    metric: HealthMetric
    value: float
    step_index: int
    count: int


def policy(message: model_pb2.HealthPolicy) -> tuple[HealthRule, ...]:
    return tuple(
        HealthRule(_METRICS[rule.metric], rule.threshold, _ACTIONS[rule.action])
        for rule in message.rules
    )


def policy_message(rules: Sequence[HealthRule]) -> model_pb2.HealthPolicy:
    """Raises InvalidField."""
    return model_pb2.HealthPolicy(
        rules=[
            model_pb2.HealthRule(
                metric=_number(_METRICS, rule.metric, "metric"),  # type: ignore[arg-type]
                threshold=rule.threshold,
                action=_number(_ACTIONS, rule.action, "action"),  # type: ignore[arg-type]
            )
            for rule in rules
        ]
    )


def state_notice(message: inference_pb.ItemNotice) -> StateNotice:
    return StateNotice(
        action=_KINDS[message.kind],
        metric=_METRICS[message.metric],
        value=message.value,
        step_index=message.step_index,
        count=message.count,
    )


def _number(names: dict[int, HealthMetric] | dict[int, HealthAction], name: str, field: str) -> int:
    for number, known in names.items():
        if known == name:
            return number
    known_names = ", ".join(names.values())
    raise InvalidField(f"{field} must be one of {known_names}, got {name!r}", field=field)


_METRICS: dict[int, HealthMetric] = {
    model_pb2.HEALTH_METRIC_STATE_NORM: "state_norm",
    model_pb2.HEALTH_METRIC_SATURATION: "saturation",
    model_pb2.HEALTH_METRIC_AGE: "age",
}
_ACTIONS: dict[int, HealthAction] = {
    model_pb2.HEALTH_ACTION_ALERT: "alert",
    model_pb2.HEALTH_ACTION_CLIP: "clip",
    model_pb2.HEALTH_ACTION_SOFT_RESET: "soft_reset",
    model_pb2.HEALTH_ACTION_RESET: "reset",
}
_KINDS: dict[int, HealthAction] = {
    inference_pb.NOTICE_KIND_STATE_ALERT: "alert",
    inference_pb.NOTICE_KIND_STATE_CLIPPED: "clip",
    inference_pb.NOTICE_KIND_STATE_SOFT_RESET: "soft_reset",
    inference_pb.NOTICE_KIND_STATE_RESET: "reset",
}
