"""A model's health policy: rules for its sessions' states, checked, and read from its folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carousel.errors import InvalidField, WeightsInvalid

if TYPE_CHECKING:
    from carousel.server.staging import Staging

FILE = "health.json"
MAX_RULES = 16
MAX_AGE = 2**53

STATE_NORM, SATURATION, AGE = METRICS = ("state_norm", "saturation", "age")
ALERT, CLIP, SOFT_RESET, RESET = ACTIONS = ("alert", "clip", "soft_reset", "reset")


@dataclass(slots=True, frozen=True)
class HealthRule:
    """When `metric` is above `threshold` (an age: a multiple of it), do `action`."""

    metric: str
    threshold: float
    action: str


HealthPolicy = tuple[HealthRule, ...]


def check(rules: Iterable[HealthRule]) -> HealthPolicy:
    """The rules as a policy. Raises InvalidField."""
    policy = tuple(rules)
    if len(policy) > MAX_RULES:
        raise InvalidField(
            f"a policy must have at most {MAX_RULES} rules, got {len(policy)}", field="policy.rules"
        )
    for number, rule in enumerate(policy):
        _check_rule(rule, f"policy.rules[{number}]")
    return policy


def _check_rule(rule: HealthRule, path: str) -> None:
    for name, value, allowed in (
        ("metric", rule.metric, METRICS),
        ("action", rule.action, ACTIONS),
    ):
        if value not in allowed:
            raise InvalidField(
                f"{name} must be one of {', '.join(allowed)}, got {value!r}", field=f"{path}.{name}"
            )
    if rule.action == CLIP and rule.metric != STATE_NORM:
        raise InvalidField(
            f"clip goes with {STATE_NORM} only, got {rule.metric}", field=f"{path}.action"
        )
    threshold = rule.threshold
    fits, allowed_range = {
        STATE_NORM: (0 < threshold < math.inf, "above 0 and finite"),
        SATURATION: (0 <= threshold <= 1, "0 to 1"),
        AGE: (
            1 <= threshold <= MAX_AGE and threshold % 1 == 0,
            f"a whole number from 1 to {MAX_AGE}",
        ),
    }[rule.metric]
    if not fits:
        raise InvalidField(
            f"the threshold of {rule.metric} must be {allowed_range}, got {threshold:g}",
            field=f"{path}.threshold",
        )


def read_health_policy(folder: Path) -> HealthPolicy:
    """The policy in a model's folder; no rules where there is no file. Raises WeightsInvalid."""
    file = folder / FILE
    if folder.is_symlink() or file.is_symlink() or not file.is_file():
        return ()
    try:
        rules = json.loads(file.read_bytes())["rules"]
        return check(HealthRule(**_rule(rule)) for rule in rules)
    except (ValueError, TypeError, KeyError, RecursionError, InvalidField) as error:
        # Going on without it would give the same inputs other numbers than before.
        raise WeightsInvalid(f"{FILE} of models/{folder.name} is damaged: {error}") from None


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    return {**rule, "threshold": float(rule["threshold"])}


def write_health_policy(folder: Path, policy: HealthPolicy, staging: Staging) -> None:
    """Replace the file in one rename. Raises StoreUnwritable."""
    staging.replace_json(folder / FILE, {"rules": [asdict(rule) for rule in policy]})
