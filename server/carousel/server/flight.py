"""A flight: a turn that runs on an accelerator, launched and not yet committed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from carousel.server.accelerator import Launched
from carousel.server.loaded import LoadedVersion
from carousel.server.plan import Plan
from carousel.server.ride import Mask, Ride
from carousel.server.work import Ints


@dataclass(slots=True)
class Flight:
    """Its riders ride no other turn before it lands, because they have not been served."""

    version: LoadedVersion
    plan: Plan
    places: Ints  # of the riders in the plan
    slots: Ints
    rows: Ints
    begin: float  # on the clock of time.monotonic
    launched: Launched
    launch: float = field(default_factory=time.monotonic)

    def land(self) -> tuple[Ride, Mask | None]:
        """Wait for it: the ride, and which of its rows are finite, None when all are."""
        done = self.launched.land()
        outputs, index = done.outputs.numpy(), done.index
        ride = Ride(self.places, self.slots, self.rows, done.state, outputs, done.new, (), index)
        return ride, None if done.good is None else done.good.numpy()
