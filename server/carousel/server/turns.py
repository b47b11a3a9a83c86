"""Turns: for the riders of a plan gather, compute, check, commit, answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np

from carousel.errors import InternalError
from carousel.server import gatekeeper
from carousel.server.arena import Rows
from carousel.server.batch_audit import BatchAudit
from carousel.server.committer import Committer
from carousel.server.flight import Flight
from carousel.server.gates.sampler import GateSampler
from carousel.server.gates.watch import Watches
from carousel.server.loaded import LoadedVersion
from carousel.server.outbox import Outbox
from carousel.server.plan import Plan
from carousel.server.ride import Mask, Ride, finite_rows
from carousel.server.state_health import Touch
from carousel.server.table import QUARANTINED, SessionTable
from carousel.server.tracing.trace import Tracer
from carousel.server.work import Floats, Ints
from carousel.server.write_behind import WriteBehind

log = logging.getLogger("carousel.engine")


class Turns:
    """Of one engine; only for whoever holds its reins."""

    def __init__(
        self,
        table: SessionTable,
        outbox: Outbox,
        committer: Committer,
        *,
        behind: WriteBehind,
        watches: Watches,
        batch_audit: BatchAudit | None,
        gates: GateSampler | None,
        tracer: Tracer,
    ) -> None:
        self.table = table
        self.behind = behind
        self.watches = watches
        self._outbox = outbox
        self._committer = committer
        self._batch_audit = batch_audit
        self._gates = gates
        self._tracer = tracer
        self._flight: Flight | None = None  # the last turn, while an accelerator computes it

    @property
    def under_way(self) -> bool:
        """Whether a turn was launched that has not been committed."""
        return self._flight is not None

    def ride(self, version: LoadedVersion, plan: Plan, *, checked: bool = False) -> None:
        """The turn of a plan; a bug in it is answered, and takes no other session down."""
        version.riding = len(plan)
        try:
            self.turn(version, plan, checked=checked)
        except Exception:
            self._fail(version, plan)
        if self._flight is None or self._flight.plan is not plan:
            version.riding = 0

    def _fail(self, version: LoadedVersion, plan: Plan) -> None:
        """Answer the riders of a plan whose turn raised an exception."""
        log.exception("a turn of %s failed", version.name)
        version.scheduler.drop(plan.chunks)
        error = InternalError("the turn failed; what it had not committed is as it was")
        self._outbox.add(gatekeeper.refuse_all(self.table, version, plan, error))

    def turn(self, version: LoadedVersion, plan: Plan, *, checked: bool = False) -> None:
        """One turn for the riders of a plan: gather, compute, check, commit, answer.

        `checked`: all of them may ride. On an accelerator single steps are gathered and computed
        while the turn before is committed and answered.
        """
        begin = time.monotonic()
        if checked:
            places = np.arange(len(plan))
        else:
            places, refused = gatekeeper.check_riders(self.table, version, plan, begin)
            for answer in refused:
                self._outbox.give(answer)
            if not len(places):
                return
        slots = plan.slots if len(places) == len(plan) else plan.slots[places]
        rows = self.table.row[slots]
        if version.accelerator is not None and plan.lengths is None and version.health is None:
            inputs = plan.inputs if len(places) == len(plan) else plan.inputs[places]
            launched = version.accelerator.launch(inputs, rows)
            self.land(then=Flight(version, plan, places, slots, rows, begin, launched))
            return
        state = version.arena.take(rows)  # [B, width]
        computing = time.monotonic()
        outputs, new, touches = self._compute(version, plan, places, state)
        seconds = time.monotonic() - computing
        ride = Ride(places, slots, rows, state, outputs, new, touches)
        self._finish(version, plan, ride, finite_rows(outputs, new), begin, seconds)

    def land(self, then: Flight | None = None) -> bool:
        """Commit and answer the turn that is under way, if there is one; another may follow it."""
        flight, self._flight = self._flight, then
        if flight is None:
            return False
        try:
            ride, good = flight.land()
            seconds = time.monotonic() - flight.launch
            self._finish(flight.version, flight.plan, ride, good, flight.begin, seconds)
        except Exception:
            self._fail(flight.version, flight.plan)
        finally:
            flight.launched.release()
            if then is None or then.version is not flight.version:
                flight.version.riding = 0
        self._outbox.deliver()
        return True

    def _finish(
        self,
        version: LoadedVersion,
        plan: Plan,
        ride: Ride,
        good: Mask | None,
        begin: float,
        seconds: float,
    ) -> None:
        """The second half of a turn, for those whose rows are finite (`good` None: all)."""
        computed = time.monotonic()
        if good is not None:
            self._quarantine(version, plan, ride.places[~good])
            ride = ride.only(good)
        if self._batch_audit is not None:
            self._batch_audit.look(version, plan, ride)
        if self._gates is not None:
            self._gates.look(self.table, version, plan, ride)
        self.watches.keep(version, plan, ride)
        self._committer.commit(version, plan, ride)
        self._measure(version, plan, ride, begin, seconds)
        self._tracer.turn(
            version.name,
            plan.works,
            ride.bounds(plan),
            begin=begin,
            computed=computed,
            end=time.monotonic(),
        )

    def _compute(
        self, version: LoadedVersion, plan: Plan, places: Ints, state: Rows
    ) -> tuple[Floats, Rows, Sequence[Touch]]:
        """One call of the network for everybody, as `LoadedVersion.run` gives it."""
        inputs, indexes, slots, lengths = plan.inputs, plan.indexes, plan.slots, plan.lengths
        if len(places) < len(plan):
            inputs, indexes, slots = inputs[places], indexes[places], slots[places]
            lengths = None if lengths is None else lengths[places]
        return version.run(inputs, lengths, state, indexes, slots)

    def _quarantine(self, version: LoadedVersion, plan: Plan, places: Ints) -> None:
        """Take riders whose rows became NaN or infinite out of service, with their last state."""
        self.table.state[plan.slots[places]] = QUARANTINED
        version.metrics.nonfinite.inc(len(places))
        version.metrics.quarantined.inc(len(places))
        self.behind.touched(plan.slots[places])
        log.warning("%d sessions of %s were quarantined", len(places), version.name)
        self._outbox.add(gatekeeper.refuse_quarantined(self.table, version, plan, places))

    def _measure(
        self, version: LoadedVersion, plan: Plan, ride: Ride, begin: float, seconds: float
    ) -> None:
        """Tell of the turn; whoever looks at the metrics counts it."""
        now, count = time.monotonic(), len(ride.places)
        works, items, steps = plan.works, None, count
        if plan.lengths is not None:
            works, steps = [], int(plan.lengths[ride.places].sum())
        elif len(works) > 1 and not count == len(plan) == len(works):
            bounds = ride.bounds(plan)
            items = (bounds[1:] - bounds[:-1]).tolist()
        if len(plan) > 1 or plan.chunks:  # of one step alone nothing can be learned
            version.scheduler.took(steps, now - begin)
        if count == 1 and plan.lengths is None and version.on_cpu:
            version.lone_seconds = now - begin
        version.metrics.turns.tell(
            works, items, count, steps, begin=begin, computing=seconds, end=now
        )
