"""The batch audit: now and then a rider of a turn is run again alone, and the numbers compared."""

from __future__ import annotations

import logging
import math
import random
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from carousel.server.loaded import LoadedVersion
from carousel.server.ride import Brought, Ride, some
from carousel.server.scheduler import Plan

log = logging.getLogger("carousel.audit")

# Steps of a slice that are run again at most, so that no audit takes long.
AUDITED_STEPS = 16

# What company may change of a row, by device; docs/decisions.md, "the numerical contract".
TOLERANCE = {"cpu": 1e-5, "cuda": 1e-3}
# What company moves by 1e-7 may be rounded to the next number of 8 or 16 bits.
ROUGH_TOLERANCE = 1e-2


def tolerance(version: LoadedVersion) -> float:
    if version.bit_exact:
        return 0.0
    if version.precision != "float32":
        return ROUGH_TOLERANCE
    return TOLERANCE[version.device.split(":")[0]]


@dataclass(slots=True, frozen=True)
class Sample:
    """One rider's turn. `new` is None when not all of its steps are run again."""

    version: LoadedVersion
    brought: Brought  # of one rider
    outputs: torch.Tensor  # [1, O], or of a slice [1, T, O]
    new: torch.Tensor | None  # [1, width], after

    def difference(self) -> float:
        """How far the same steps alone come out elsewhere, as `distance` says it."""
        kernel, given = self.version.kernel, self.brought
        x = torch.from_numpy(given.inputs).to(self.version.device)
        with torch.no_grad():
            if given.lengths is None:
                outputs, new = kernel.step(x, given.state)
            else:
                outputs, new = kernel.chunk(x, torch.from_numpy(given.lengths), given.state)
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
        if due and len(riders := ride.untouched()):
            sample = take(version, plan, ride, random.choice(riders.tolist()))
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
        allowed = tolerance(version)
        if found > max(allowed, before):
            log.warning(
                "a row of %s differs by %.2g from the same row alone, %.2g is allowed",
                version.name,
                found,
                allowed,
            )


def take(version: LoadedVersion, plan: Plan, ride: Ride, rider: int) -> Sample:
    """A copy of what one rider of a turn brought and got."""
    one = slice(rider, rider + 1)
    brought = ride.brought(plan, np.array([rider]), steps=AUDITED_STEPS)
    outputs, whole = torch.from_numpy(ride.outputs[one].copy()), True
    if plan.lengths is not None and brought.lengths is not None:
        steps = int(brought.lengths[0])
        whole = steps == int(plan.lengths[ride.places[rider]])
        outputs = outputs[:, :steps]
    return Sample(
        version=version,
        brought=brought,
        outputs=outputs,
        new=torch.as_tensor(some(ride.new, np.array([rider]))) if whole else None,
    )


def distance(found: torch.Tensor, alone: torch.Tensor) -> float:
    """The largest difference; where numbers are above 1, as a share of the largest of them."""
    gap = float((found - alone).abs().max() / found.abs().max().clamp_min(1.0))
    return math.inf if math.isnan(gap) else gap
