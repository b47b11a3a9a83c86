"""Notices: which rules of a health policy fired, kept by slot for a retry, as the replies are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from carousel.server.health_policy import HealthRule


@dataclass(slots=True, frozen=True)
class Notice:
    """That a rule fired after `count` steps of one item, first after `step_index`.

    `value` is the largest that it fired at.
    """

    rule: HealthRule
    value: float
    step_index: int
    count: int


Ints = npt.NDArray[np.int64]
Told = tuple[tuple[int, Notice], ...]  # with the item that each is about


class Notices:
    """Of each session's last request, so that a retry is told what the first answer was."""

    def __init__(self) -> None:
        self._kept: dict[int, dict[HealthRule, Notice]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, slot: int, rule: HealthRule, value: float, step_index: int) -> None:
        """One more step after which a rule fired."""
        kept = self._kept.setdefault(slot, {})
        known = kept.get(rule)
        if known is None:
            kept[rule] = Notice(rule, value, step_index, 1)
        else:
            largest = max(known.value, value)
            kept[rule] = Notice(rule, largest, known.step_index, known.count + 1)

    def forget(self, slots: Iterable[int]) -> None:
        for slot in self._kept.keys() & set(slots):
            del self._kept[slot]

    def of(self, items: Ints, slots: Ints) -> Told:
        """What is kept for the sessions of these items."""
        named = slots.tolist()
        if self._kept.keys().isdisjoint(named):
            return ()
        return tuple(
            (item, notice)
            for item, slot in zip(items.tolist(), named, strict=True)
            for notice in self._kept.get(slot, {}).values()
        )
