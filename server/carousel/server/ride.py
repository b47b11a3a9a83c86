"""A ride: what becomes of a plan's riders in one turn, and which of them came through it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from carousel.server.arena import Rows
from carousel.server.health_policy import ALERT
from carousel.server.plan import Plan
from carousel.server.state_health import Touch
from carousel.server.work import Floats, Inputs, Ints

Mask = npt.NDArray[np.bool_]


@dataclass(slots=True, frozen=True)
class Brought:
    """What some riders of a turn brought: copies, so that another thread may run them again."""

    inputs: Inputs  # [B, ...], or of slices [B, T, ...]
    lengths: Ints | None  # of slices; None for single steps
    state: torch.Tensor  # [B, width], before


@dataclass(slots=True)
class Ride:
    """Those who ride a turn, by their places in the plan, and what the network made of them."""

    places: Ints
    slots: Ints
    rows: Ints
    state: Rows  # as it was
    outputs: Floats  # [B, O], or of slices [B, T, O]
    new: Rows
    touches: Sequence[Touch] = ()  # of a health policy, where the version has one
    index: torch.Tensor | None = None  # `rows` on the device, where they are there already

    def only(self, good: Mask) -> Ride:
        """Without those for whom `good` [B] is False."""
        slots = self.slots[good]
        left = set(slots.tolist()) if self.touches else set()
        return Ride(
            self.places[good],
            slots,
            self.rows[good],
            some(self.state, good),
            self.outputs[good],
            some(self.new, good),
            [touch for touch in self.touches if touch.slot in left],
        )

    def untouched(self) -> Ints:
        """The riders whose rows are still as the kernel left them."""
        if not self.touches:
            return np.arange(len(self.slots))
        changed = [touch.slot for touch in self.touches if touch.rule.action != ALERT]
        return np.flatnonzero(~np.isin(self.slots, changed))

    def brought(self, plan: Plan, riders: Ints, *, steps: int) -> Brought:
        """What these riders brought; of slices their first `steps` at most."""
        places = self.places[riders]
        state = torch.as_tensor(some(self.state, riders))
        if plan.lengths is None:
            return Brought(plan.inputs[places], None, state)
        lengths = np.minimum(plan.lengths[places], steps)
        return Brought(plan.inputs[places, : int(lengths.max())], lengths, state)

    def bounds(self, plan: Plan) -> Ints:
        """Where each work's riders begin and end, now that some were sent away."""
        if len(self.places) == len(plan):
            return plan.bounds
        return np.searchsorted(self.places, plan.bounds)


def some(rows: Rows, chosen: Ints | Mask) -> Rows:
    """A copy of these, where they are."""
    if isinstance(rows, np.ndarray):
        return rows[chosen]
    return rows[torch.from_numpy(chosen).to(rows.device)]


def finite_rows(outputs: Floats, new: Rows) -> Mask | None:
    """Which rows are finite in outputs and state, [B]; None when all are.

    A sum is finite only if all its terms are, and costs a fraction of looking at each.
    """
    if math.isfinite(_sum(new) + _sum(outputs)):
        return None
    rows: Mask = torch.isfinite(torch.as_tensor(new)).all(1).cpu().numpy()
    return rows & np.isfinite(outputs).reshape(len(outputs), -1).all(1)


def _sum(values: Rows) -> float:
    """Of all numbers; of arrays by numpy, since torch gives the interpreter's lock up each time."""
    if isinstance(values, np.ndarray):
        return float(np.einsum("i->", values.reshape(-1)))
    return float(values.sum())
