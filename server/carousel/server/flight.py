"""A flight: a turn that runs on an accelerator, launched and not yet committed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch

from carousel.server.accelerator import Launched
from carousel.server.loaded import LoadedVersion
from carousel.server.plan import Plan
from carousel.server.ride import Ride
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

    def land(self) -> tuple[Ride, torch.Tensor | None]:
        """Wait for it: the ride, and which of its rows are finite, None when all are."""
        done = self.launched.land()
        ride = Ride(
            self.places, self.slots, self.rows, done.state, done.outputs, done.new, (), done.index
        )
        return ride, done.good
