"""The batch audit: now and then a rider of a turn is run again alone, and the numbers compared."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from carousel.server.health_policy import ALERT
from carousel.server.loaded import LoadedVersion
from carousel.server.ride import Ride
from carousel.server.scheduler import Plan
from carousel.server.work import Inputs

log = logging.getLogger("carousel.audit")

# Steps of a slice that are run again at most, so that no audit takes long.
AUDITED_STEPS = 16

# What company may change of a row, by device; docs/decisions.md, "the numerical contract".
TOLERANCE = {"cpu": 1e-5, "cuda": 1e-3}


@dataclass(slots=True, frozen=True)
class Sample:
    """One rider's turn. `new` is None when not all of its steps are run again."""

    version: LoadedVersion
    inputs: Inputs  # [1, D] or [1], of a slice [1, T, D] or [1, T]
    steps: int | None  # of a slice; None for a single step
    state: torch.Tensor  # [1, width], before
    outputs: torch.Tensor  # [1, O], or of a slice [1, T, O]
    new: torch.Tensor | None  # [1, width], after

    def difference(self) -> float:
        """How far the same steps alone come out elsewhere, as `distance` says it."""
        kernel, x = self.version.kernel, torch.from_numpy(self.inputs).to(self.version.device)
        with torch.no_grad():
            if self.steps is None:
                outputs, new = kernel.step(x, self.state)
            else:
                outputs, new = kernel.chunk(x, torch.tensor([self.steps]), self.state)
        found = distance(self.outputs, outputs.cpu())
        return found if self.new is None else max(found, distance(self.new, new))


class BatchAudit:
    """Takes one rider of every `every`-th turn of a version that has more than one.

    The engine's thread copies what the rider brought and got; a thread of the audit's own runs
    it, one at a time, and while it is busy nothing is taken.
    """

    def __init__(self, *, every: int) -> None:
        self._every = every
        self._left: dict[int, int] = {}  # turns until the next, by version
        self._largest: dict[str, float] = {}  # by model
        self._thread = ThreadPoolExecutor(1, "carousel-audit")
        self._running: Future[None] | None = None

    def look(self, version: LoadedVersion, plan: Plan, ride: Ride) -> None:
        """Take a rider, if it is time; for the engine's thread, before the commit."""
        if len(ride.places) < 2:
            return
        left = self._left.get(version.ordinal, self._every) - 1
        due = left <= 0 and (self._running is None or self._running.done())
        self._left[version.ordinal] = self._every if due else left
        if due and (riders := untouched(ride)):
            sample = take(version, plan, ride, random.choice(riders))
            self._running = self._thread.submit(self._compare, sample)

    def close(self) -> None:
        """Finish what runs."""
        self._thread.shutdown()

    def _compare(self, sample: Sample) -> None:
        version = sample.version
        try:
            found = sample.difference()
        except Exception:
            log.exception("a step of %s could not be run again", version.name)
            return
        before = self._largest.get(version.model, 0.0)
        largest = self._largest[version.model] = max(before, found)
        version.metrics.audits.inc()
        version.metrics.audit_difference.set(largest)
        allowed = 0.0 if version.bit_exact else TOLERANCE[version.device.split(":")[0]]
        if found > max(allowed, before):
            log.warning(
                "a row of %s differs by %.2g from the same row alone, %.2g is allowed",
                version.name,
                found,
                allowed,
            )


def untouched(ride: Ride) -> Sequence[int]:
    """The riders whose rows are still as the kernel left them."""
    if not ride.touches:
        return range(len(ride.slots))
    changed = {touch.slot for touch in ride.touches if touch.rule.action != ALERT}
    return [rider for rider, slot in enumerate(ride.slots.tolist()) if slot not in changed]


def take(version: LoadedVersion, plan: Plan, ride: Ride, rider: int) -> Sample:
    """A copy of what one rider of a turn brought and got."""
    one, place = slice(rider, rider + 1), int(ride.places[rider])
    inputs, outputs = plan.inputs[place : place + 1], ride.outputs[one]
    steps, whole = None, True
    if plan.lengths is not None:
        length = int(plan.lengths[place])
        steps = min(length, AUDITED_STEPS)
        whole = steps == length
        inputs, outputs = inputs[:, :steps], outputs[:, :steps]
    return Sample(
        version=version,
        inputs=inputs.copy(),
        steps=steps,
        state=ride.state[one].clone(),
        outputs=outputs.clone(),
        new=ride.new[one].clone() if whole else None,
    )


def distance(found: torch.Tensor, alone: torch.Tensor) -> float:
    """The largest difference; where numbers are above 1, as a share of the largest of them."""
    gap = float((found - alone).abs().max() / found.abs().max().clamp_min(1.0))
    return math.inf if math.isnan(gap) else gap
