"""The plan of a turn of one step, made without a queue: for who is alone, or has little."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from carousel.server.door import Lane
from carousel.server.inputs import are_good
from carousel.server.loaded import LoadedVersion
from carousel.server.plan import Plan
from carousel.server.table import NO_ROW, QUARANTINED, SessionTable
from carousel.server.work import Work

BOUNDS, PLACES = np.array([0, 1]), np.zeros(1, np.int64)
BOUNDS.flags.writeable = PLACES.flags.writeable = False


def places_of_modest(inbox: Sequence[tuple[LoadedVersion, Work]]) -> Iterator[int]:
    """Where the works are of who has little beside others; what comes meanwhile comes behind."""
    full = set[Lane]()  # those that have much, each asked once
    for place in range(len(inbox)):
        lane = inbox[place][1].lane
        if lane not in full:
            if lane.is_modest:
                yield place
            else:
                full.add(lane)


def plan_of(table: SessionTable, version: LoadedVersion, work: Work, now: float) -> Plan | None:
    """The plan of a work of one step, which may ride; None where anything is not as usual.

    All that the gatekeeper asks of many at once, asked of one. Nothing is changed but that the item
    has drawn its ticket.
    """
    handle, index = work.handles[0], work.step_indexes[0]
    slot = table.slot_of(handle, work.lane.tenant)
    if slot is None or version.retired or work.cancelled or work.deadline <= now or work.refusals:
        return None
    serving = table.serving[slot]
    if (
        table.version[slot] != version.ordinal
        or table.state[slot] == QUARANTINED
        or table.row[slot] == NO_ROW
        or table.next_index[slot] != index
        or table.tail[slot] != serving
        or (work.durables and work.durables[0] > index)
        or not are_good(work.inputs, version)
    ):
        return None
    table.tail[slot] = serving + 1
    return Plan(
        works=[work],
        bounds=BOUNDS,
        items=PLACES,
        slots=np.array([slot]),
        tickets=np.array([serving]),
        handles=np.array([handle], np.uint64),
        indexes=np.array([index]),
        inputs=work.inputs.copy(),  # which are the message's own bytes
    )
