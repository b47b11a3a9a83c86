"""The sampler: now and then a few riders of a turn are run again where their gates can be seen."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from carousel.server.gates.activity import KEEPS, Activity, horizons, run_again, surprises
from carousel.server.gates.metrics import GateMetrics
from carousel.server.gates.window import Window
from carousel.server.loaded import LoadedVersion
from carousel.server.repeats import reply_of
from carousel.server.ride import Brought, Ride
from carousel.server.scheduler import Plan
from carousel.server.table import SessionTable
from carousel.server.work import Floats

log = logging.getLogger("carousel.gates")

MOST_RIDERS = 32
MOST_STEPS = 4  # of a slice
MOST_NUMBERS = 2**18  # that the engine copies at most, of states and outputs
REST = 99  # times as long as it worked: the thread takes at most a hundredth of a core
RECENT = 60.0  # seconds; versions that were sampled since share the thread evenly


@dataclass(slots=True, frozen=True)
class Sample:
    """What some riders of a turn brought, and by place the last output [O] of each that has one."""

    version: LoadedVersion
    brought: Brought
    before: Mapping[int, Floats]


class GateSampler:
    """Takes riders of a turn of each version once in `seconds`, and counts what their gates do.

    The engine's thread copies what they brought; a thread of the sampler's own runs the reference
    cells, one sample at a time, and rests after that. The version rests for the others too: one
    that seldom turns would else hardly ever turn at the moment when the thread is free.
    """

    def __init__(self, *, seconds: float, metrics: GateMetrics) -> None:
        self._seconds = seconds
        self._metrics = metrics
        self._due: dict[int, float] = {}  # by version, on the clock of time.monotonic
        self._taken: dict[int, float] = {}  # when each was sampled
        self._rested = 0.0  # when the thread will have
        self._thread = ThreadPoolExecutor(1, "carousel-gates")
        self._running: Future[None] | None = None

    def look(self, table: SessionTable, version: LoadedVersion, plan: Plan, ride: Ride) -> None:
        """Take riders, if it is time; for the engine's thread, before the commit."""
        now = time.monotonic()
        if now < self._due.get(version.ordinal, 0.0) or now < self._rested:
            return
        if self._running is not None and not self._running.done():
            return
        sample = take(table, version, plan, ride)
        if sample is None:
            return
        self._due[version.ordinal] = now + self._seconds
        self._taken[version.ordinal] = now
        windows = self._metrics.windows
        if version.ordinal not in windows:
            windows[version.ordinal] = Window(version.model, version.baseline)
        self._running = self._thread.submit(self._count, sample, windows[version.ordinal])

    def forget(self, version: LoadedVersion) -> None:
        """A version goes out of service."""
        self._due.pop(version.ordinal, None)
        self._taken.pop(version.ordinal, None)
        self._metrics.windows.pop(version.ordinal, None)

    def close(self) -> None:
        """Finish what runs."""
        self._thread.shutdown()

    def _count(self, sample: Sample, window: Window) -> None:
        begin = time.thread_time()
        try:
            count(sample, window, self._metrics)
        except Exception:
            log.exception("the gates of %s could not be sampled", sample.version.name)
        now, rest = time.monotonic(), REST * (time.thread_time() - begin)
        sharers = sum(now - taken < RECENT for taken in list(self._taken.values()))
        ordinal = sample.version.ordinal
        self._rested = now + rest
        self._due[ordinal] = max(self._due.get(ordinal, 0.0), now + sharers * rest)


def take(table: SessionTable, version: LoadedVersion, plan: Plan, ride: Ride) -> Sample | None:
    """Copies of what a few riders brought, chosen by chance; None where there is nobody."""
    riders = ride.untouched()
    numbers = version.schema.width + version.config.output_size
    most = max(1, min(MOST_RIDERS, MOST_NUMBERS // numbers))
    if len(riders) > most:
        riders = np.array(random.sample(riders.tolist(), most))
    if not len(riders):
        return None
    before = {}
    if version.generative:
        replies = [reply_of(table, version, slot) for slot in ride.slots[riders].tolist()]
        before = {place: reply[-1].copy() for place, reply in enumerate(replies) if len(reply)}
    return Sample(version, ride.brought(plan, riders, steps=MOST_STEPS), before)


def count(sample: Sample, window: Window, metrics: GateMetrics) -> None:
    """Run a sample again, and count what its gates did."""
    activity = run_again(sample.version.network, sample.brought)
    window.add(activity)
    _count_states(sample.version, activity, metrics)
    if sample.version.generative:
        _count_surprises(sample, activity, metrics)


def _count_states(version: LoadedVersion, activity: Activity, metrics: GateMetrics) -> None:
    """Norms of every step; horizons of the units in each rider's first."""
    cell = version.config.cell
    norms = activity.values["cell" if cell == "lstm" else "hidden"].double().norm(dim=2)
    kept = activity.values.get(KEEPS.get(cell, ""))
    for layer in range(version.config.layers):
        labels = (version.model, str(layer))
        metrics.state_norm.labels(*labels).observe_many(norms[:, layer].numpy())
        if kept is not None:
            spans = horizons(kept[torch.from_numpy(activity.firsts), layer])
            metrics.memory_horizon.labels(*labels).observe_many(spans.flatten().numpy())


def _count_surprises(sample: Sample, activity: Activity, metrics: GateMetrics) -> None:
    """Of every step before which there was an output."""
    logits = activity.outputs.roll(1, 0)  # of the step before
    known = np.ones(len(logits), np.bool_)
    known[activity.firsts] = False
    for rider, output in sample.before.items():
        place = int(activity.firsts[rider])
        logits[place], known[place] = torch.from_numpy(output), True
    nats = surprises(logits[torch.from_numpy(known)], activity.inputs[known])
    metrics.surprise.labels(sample.version.model).observe_many(nats)
