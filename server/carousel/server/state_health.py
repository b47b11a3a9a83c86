"""State health: a policy's rules applied to rows after a step.

Shapes: B riders, T time, D input, O output, width of a row, V vectors of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from carousel.model import Kernel, ModelConfig, StateSchema
from carousel.model.config import Cell
from carousel.server.health_policy import (
    AGE,
    ALERT,
    CLIP,
    RESET,
    SATURATION,
    SOFT_RESET,
    STATE_NORM,
    HealthPolicy,
    HealthRule,
)
from carousel.server.work import Floats, Ints

Measured = npt.NDArray[np.float64]

FLAT = 0.99  # of an activation's largest value
FLAT_CELL = math.atanh(FLAT)


@dataclass(slots=True, frozen=True)
class Touch:
    """That a rule fired for a session, after the step of this index; `value` is from before.

    `row` is the state as all rules left it; None where none changed it.
    """

    slot: int
    step_index: int
    rule: HealthRule
    value: float
    row: Floats | None = None


class StateHealth:
    """A policy made ready for one model version.

    All is computed by numpy on the CPU, a row at a time within its arrays, so that a row's
    numbers depend on the row alone.
    """

    def __init__(self, policy: HealthPolicy, config: ModelConfig, initial: Floats) -> None:
        self.policy = policy
        self._specs = StateSchema.of(config).tensors
        self._cell: Cell = config.cell
        self._initial = initial  # [width]
        self._output_size = config.output_size
        self._measures: dict[str, Callable[[Floats, Ints], Measured]] = {
            STATE_NORM: lambda rows, ages: self._norms(rows).max(axis=1),
            SATURATION: lambda rows, ages: self._saturation(rows),
            AGE: lambda rows, ages: ages.astype(np.float64),
        }

    def run(
        self,
        kernel: Kernel,
        x: torch.Tensor,
        lengths: Ints | None,
        rows: torch.Tensor,
        indexes: Ints,
        slots: Ints,
    ) -> tuple[torch.Tensor, torch.Tensor, list[Touch]]:
        """Steps, or slices step by step, with the rules applied after each: as the kernel's own.

        Slices lose the kernel's way for whole chunks: the rules must act at the same steps
        wherever a sequence is cut.
        """
        if lengths is None:
            y, new = kernel.step(x, rows)
            return y, *self.apply(new, indexes + 1, slots)
        rows, touches = rows.clone(), []
        y = torch.zeros(*x.shape[:2], self._output_size, device=rows.device)  # [B, T, O]
        for t in range(x.shape[1]):
            riding = np.flatnonzero(lengths > t)
            some: slice | torch.Tensor = slice(None)  # everybody, without a copy
            if len(riding) < len(lengths):
                some = torch.from_numpy(riding).to(rows.device)
            y[some, t], new = kernel.step(x[some, t], rows[some])
            rows[some], touched = self.apply(new, indexes[riding] + t + 1, slots[riding])
            touches += touched
        return y, rows, touches

    def apply(
        self, rows: torch.Tensor, ages: Ints, slots: Ints
    ) -> tuple[torch.Tensor, list[Touch]]:
        """The rows [B, width] as the rules leave them, and what fired.

        `ages` are the steps taken. A row that is not finite is left as it is: it must not be
        healed unseen.
        """
        given: Floats = rows.cpu().numpy()
        values, touches = given, []
        measured: dict[str, Measured] = {}
        for rule in self.policy:
            if rule.metric not in measured:
                measured[rule.metric] = self._measures[rule.metric](values, ages)
            found = measured[rule.metric]
            fired = np.flatnonzero(_fires(rule, found))
            if len(fired):
                fired = fired[np.isfinite(values[fired]).all(axis=1)]
            if not len(fired):
                continue
            touches += [
                Touch(slot, age - 1, rule, value)
                for slot, age, value in zip(
                    slots[fired].tolist(), ages[fired].tolist(), found[fired].tolist(), strict=True
                )
            ]
            if rule.action == ALERT:
                continue
            values = values.copy() if values is given else values
            values[fired] = self._act(rule, values[fired])
            for metric, before in measured.items():
                before[fired] = self._measures[metric](values[fired], ages[fired])
        if values is given:
            return rows, touches
        changed = {slot: values[place] for place, slot in enumerate(slots.tolist())}
        touches = [replace(touch, row=changed[touch.slot]) for touch in touches]
        return torch.from_numpy(values).to(rows.device), touches

    def _act(self, rule: HealthRule, rows: Floats) -> Floats:
        if rule.action == CLIP:
            clipped = rows.copy()
            factors = rule.threshold / np.maximum(self._norms(rows), rule.threshold)  # [B, V]
            begin = 0
            for part in self._parts(clipped):  # views
                depth = part.shape[1]
                own = factors[:, begin : begin + depth, None]
                np.multiply(part, own, out=part, casting="same_kind")
                begin += depth
            return clipped
        if rule.action == SOFT_RESET:
            half = np.float32(0.5)
            mixed = half * rows + half * self._initial
            return mixed.astype(np.float32, copy=False)
        assert rule.action == RESET
        return np.broadcast_to(self._initial, rows.shape)

    def _parts(self, rows: Floats) -> Iterator[Floats]:
        """The vectors of each tensor of the schema: [B, L, H], as views."""
        for spec in self._specs:
            yield rows[:, spec.offset : spec.offset + spec.size].reshape(-1, *spec.shape)

    def _norms(self, rows: Floats) -> Measured:
        """L2 norms [B, V], in float64: the square of a large float32 is infinite."""
        norms = [
            np.sqrt(np.square(part, dtype=np.float64).sum(axis=2)) for part in self._parts(rows)
        ]
        return np.concatenate(norms, axis=1)

    def _saturation(self, rows: Floats) -> Measured:
        """The share of units in the flat part of their activation [B]."""
        *_, units = self._parts(rows)  # c of an LSTM, h otherwise
        share: Measured = flat_units(self._cell, units.reshape(len(rows), -1)).mean(axis=1)
        return share


def flat_units(cell: Cell, units: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Which units, c of an LSTM and h otherwise, are in the flat part of their activation."""
    bound = FLAT_CELL if cell == "lstm" else FLAT
    flat: npt.NDArray[np.bool_] = units == 0 if cell == "rnn_relu" else np.abs(units) > bound
    return flat


def _fires(rule: HealthRule, measured: Measured) -> npt.NDArray[np.bool_]:
    is_age = rule.metric == AGE
    fires: npt.NDArray[np.bool_]
    fires = measured % rule.threshold == 0 if is_age else measured > rule.threshold
    return fires
