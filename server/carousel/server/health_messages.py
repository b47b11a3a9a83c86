"""How health policies and notices look on the wire."""

from __future__ import annotations

from carousel.server.health_policy import (
    ACTIONS,
    ALERT,
    CLIP,
    METRICS,
    RESET,
    SOFT_RESET,
    HealthPolicy,
    HealthRule,
    check,
)
from carousel.server.notices import Notice
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import model_pb2

_METRICS = {name: model_pb2.HealthMetric.Value(f"HEALTH_METRIC_{name.upper()}") for name in METRICS}
_ACTIONS = {name: model_pb2.HealthAction.Value(f"HEALTH_ACTION_{name.upper()}") for name in ACTIONS}
_METRIC_NAMES = {int(number): name for name, number in _METRICS.items()}
_ACTION_NAMES = {int(number): name for name, number in _ACTIONS.items()}
_KINDS = {
    ALERT: pb.NOTICE_KIND_STATE_ALERT,
    CLIP: pb.NOTICE_KIND_STATE_CLIPPED,
    SOFT_RESET: pb.NOTICE_KIND_STATE_SOFT_RESET,
    RESET: pb.NOTICE_KIND_STATE_RESET,
}


def decode_policy(message: model_pb2.HealthPolicy) -> HealthPolicy:
    """Raises InvalidField."""
    return check(
        HealthRule(
            metric=_METRIC_NAMES.get(rule.metric, f"number {rule.metric}"),
            threshold=rule.threshold,
            action=_ACTION_NAMES.get(rule.action, f"number {rule.action}"),
        )
        for rule in message.rules
    )


def encode_policy(policy: HealthPolicy) -> model_pb2.HealthPolicy:
    return model_pb2.HealthPolicy(
        rules=[
            model_pb2.HealthRule(
                metric=_METRICS[rule.metric],
                threshold=rule.threshold,
                action=_ACTIONS[rule.action],
            )
            for rule in policy
        ]
    )


def item_notice(item: int, notice: Notice) -> pb.ItemNotice:
    """`item` is the place in the response."""
    return pb.ItemNotice(
        item=item,
        kind=_KINDS[notice.rule.action],
        value=notice.value,
        metric=_METRICS[notice.rule.metric],
        step_index=notice.step_index,
        count=notice.count,
    )
