"""Health events: what rules did in a turn is kept for the answers, counted and logged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from carousel.server.loaded import LoadedVersion
from carousel.server.ride import Ride
from carousel.server.scheduler import Plan
from carousel.server.state_health import Touch
from carousel.server.table import SessionTable


def tell(table: SessionTable, version: LoadedVersion, plan: Plan, ride: Ride) -> None:
    """To be called at the commit, before the answers are made."""
    if len(table.notices):
        slots = ride.slots.tolist()
        if plan.chunks:  # a slice that is not the first adds to what its request has so far
            places = ride.places.tolist()
            slots = [s for s, p in zip(slots, places, strict=True) if not plan.chunks[p].done]
        table.notices.forget(slots)
    if ride.touches:
        for touch in ride.touches:
            table.notices.put(touch.slot, touch.rule, touch.value, touch.step_index)
        publish(version, ride.touches, lambda slot: f"sessions/{table.ids[slot]}")


def publish(version: LoadedVersion, touches: Sequence[Touch], name: Callable[[int], str]) -> None:
    """Count and log; `name` is that of a slot."""
    for touch in touches:
        version.metrics.health_actions[touch.rule.action].inc()
    version.health_log.tell(touches, name)
