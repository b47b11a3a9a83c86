"""Health events: what rules did in a turn is kept for the answers, counted and logged."""

from __future__ import annotations

from carousel.server.loaded import LoadedVersion
from carousel.server.ride import Ride
from carousel.server.scheduler import Plan
from carousel.server.table import SessionTable


def tell(table: SessionTable, version: LoadedVersion, plan: Plan, ride: Ride) -> None:
    """To be called at the commit, before the answers are made."""
    if len(table.notices):
        slots = ride.slots.tolist()
        if plan.chunks:  # a slice that is not the first adds to what its request has so far
            places = ride.places.tolist()
            slots = [s for s, p in zip(slots, places, strict=True) if not plan.chunks[p].done]
        table.notices.forget(slots)
    if not ride.touches:
        return
    for touch in ride.touches:
        table.notices.put(touch.slot, touch.rule, touch.value, touch.step_index)
        version.metrics.health_actions[touch.rule.action].inc()
    version.health_log.tell(ride.touches, table.ids)
